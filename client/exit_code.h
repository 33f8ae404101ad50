// What the process tells its caller.
#pragma once

namespace fresco {

inline constexpr int kExitDone = 0;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitFailed = 3;  // refused by the server, or a file could not be written
inline constexpr int kExitUnreachable = 4;
inline constexpr int kExitInterrupted = 130;

}  // namespace fresco
