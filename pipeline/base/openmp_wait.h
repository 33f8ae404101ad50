// How the threads of OpenMP, which libtorch computes with, wait for each other in this process.
#pragma once

namespace fresco {

// Unless the environment decides it, they are to sleep and not to spin: spinning beside other work, a picture took 36 s
// instead of 0.9 s. libgomp reads OMP_WAIT_POLICY when it is loaded, before main() (GNU libgomp manual, "Environment
// Variables"), so that the program is started anew with the variable set: once, and as the same process. Call it in
// main(), with main's argv, before anything is read or opened that a second start would miss. It returns where nothing
// is to be done, and where the program cannot be started anew, which only costs speed.
void LetOpenMpThreadsSleep(char* const* argv);

}  // namespace fresco
