#include "bench/service/server_process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>
#include <utility>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

namespace fs = std::filesystem;

constexpr auto kPoll = std::chrono::milliseconds(10);

std::string ReadFile(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

// Starts it with a pipe, whose other end is returned in `input`, as standard input.
pid_t Spawn(const std::vector<std::string>& command, const std::string& output, int* input) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return -1;
  std::vector<char*> arguments;
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, ends[0], STDIN_FILENO);
  posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, output.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND,
                                   0600);
  posix_spawn_file_actions_adddup2(&files, STDOUT_FILENO, STDERR_FILENO);
  pid_t pid = -1;
  if (posix_spawnp(&pid, arguments[0], &files, nullptr, arguments.data(), environ) != 0) pid = -1;
  posix_spawn_file_actions_destroy(&files);
  close(ends[0]);
  *input = ends[1];
  return pid;
}

// The answer from 127.0.0.1, headers and all; empty if nobody listens.
std::string HttpGet(int port, const std::string& path) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string answer;
  const std::string request = StrCat("GET ", path, " HTTP/1.0\r\n\r\n");
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
      write(fd, request.data(), request.size()) > 0) {
    char buffer[16384];
    for (ssize_t size = 0; (size = read(fd, buffer, sizeof(buffer))) > 0;)
      answer.append(buffer, static_cast<size_t>(size));
  }
  close(fd);
  return answer;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ServerProcess>> ServerProcess::Start(std::vector<std::string> command,
                                                                    const std::string& folder) {
  command.insert(command.end(),
                 {"--address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0", "--port-file", folder + "/ports"});
  std::unique_ptr<ServerProcess> server(new ServerProcess());
  server->pid_ = Spawn(command, folder + "/server.log", &server->input_);
  if (server->pid_ < 0) return absl::UnavailableError(StrCat("cannot start ", command[0]));
  FRESCO_RETURN_IF_ERROR(server->AwaitModel(folder));
  return server;
}

absl::Status ServerProcess::AwaitModel(const std::string& folder) {
  while (!fs::exists(folder + "/ports") && !Ended()) std::this_thread::sleep_for(kPoll);
  if (!Ended()) {
    const nlohmann::json ports = nlohmann::json::parse(ReadFile(folder + "/ports"));
    address_ = ports.value("address", "");
    metrics_port_ = ports.value("metrics_port", 0);
  }
  // Calls before that are told to come back.
  while (!Ended() && Metric("fresco_model_loads_total") < 1) std::this_thread::sleep_for(kPoll);
  if (!Ended()) return absl::OkStatus();
  return absl::UnavailableError(StrCat("the server has ended: ", ReadFile(folder + "/server.log")));
}

bool ServerProcess::Ended() {
  int status = 0;
  if (pid_ > 0 && waitpid(pid_, &status, WNOHANG) == pid_) pid_ = -1;
  return pid_ < 0;
}

ServerProcess::~ServerProcess() {
  CloseInput();
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  Wait();
}

void ServerProcess::CloseInput() {
  if (input_ >= 0) close(std::exchange(input_, -1));
}

int64_t ServerProcess::ResidentBytes() const {
  int64_t virtual_pages = 0, pages = 0;
  std::ifstream(StrCat("/proc/", pid_, "/statm")) >> virtual_pages >> pages;
  return pages * sysconf(_SC_PAGESIZE);
}

int ServerProcess::OpenFiles() const {
  std::error_code error;
  int count = 0;
  for (fs::directory_iterator it(StrCat("/proc/", pid_, "/fd"), error), end; !error && it != end; it.increment(error))
    ++count;
  return count;
}

double ServerProcess::CpuSeconds() const {
  const std::string stat = ReadFile(StrCat("/proc/", pid_, "/stat"));
  std::istringstream fields(stat.substr(std::min(stat.size(), stat.rfind(')') + 1)));
  std::string skipped;
  for (int field = 3; field < 14; ++field) fields >> skipped;  // proc(5): utime is the 14th, stime the 15th
  double user = 0, system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

double ServerProcess::Metric(const std::string& name, const std::string& labels) const {
  const std::string answer = HttpGet(metrics_port_, "/metrics");
  if (answer.empty()) return -1;
  double sum = 0;
  std::istringstream lines(answer);
  for (std::string line; std::getline(lines, line);) {
    if (line.substr(0, line.find_first_of(" {")) != name || line.find(labels) == std::string::npos) continue;
    sum += std::strtod(line.c_str() + line.rfind(' '), nullptr);
  }
  return sum;
}

int ServerProcess::Stop() {
  CloseInput();
  kill(pid_, SIGTERM);
  return Wait();
}

int ServerProcess::Wait() {
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) continue;
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace fresco
