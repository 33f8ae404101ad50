#include "server/metrics/process_metrics.h"

#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

namespace fresco {
namespace {

using prometheus::MetricFamily;
using prometheus::MetricType;

MetricFamily Single(const std::string& name, const std::string& help, MetricType type, double value) {
  prometheus::ClientMetric metric;
  metric.gauge.value = value;
  metric.counter.value = value;
  return {name, help, type, {metric}};
}

// The fields of /proc/self/stat from the third on: the second, the program's name, may hold spaces and parentheses.
struct ProcessStat {
  double cpu_ticks = 0;
  double start_ticks = 0;  // after boot
  double virtual_bytes = 0;
  double resident_pages = 0;
};

std::optional<ProcessStat> ReadStat() {
  std::ifstream file("/proc/self/stat");
  std::string text;
  if (!std::getline(file, text) || text.rfind(')') == std::string::npos) return std::nullopt;
  std::istringstream fields(text.substr(text.rfind(')') + 1));
  std::vector<std::string> values;
  for (std::string value; fields >> value;) values.push_back(value);
  if (values.size() < 22) return std::nullopt;
  const auto field = [&](int number) { return std::stod(values[number - 3]); };  // numbered as in proc(5)
  return ProcessStat{field(14) + field(15), field(22), field(23), field(24)};
}

double BootTime() {
  std::ifstream file("/proc/stat");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("btime ", 0) == 0) return std::stod(line.substr(6));
  }
  return 0;
}

double OpenFiles() {
  std::error_code error;
  double count = 0;
  for (auto entry = std::filesystem::directory_iterator("/proc/self/fd", error); !error && entry != end(entry);
       entry.increment(error))
    ++count;
  return count;
}

double MaxFiles() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<double>(limit.rlim_cur);
}

// Resident memory says what the process has had at a time, this what it has now: whether something leaks.
MetricFamily Heap() {
  const struct mallinfo2 info = mallinfo2();
  MetricFamily family{"fresco_heap_bytes",
                      "The C library's heap: used, by the program; held, of the operating system.",
                      MetricType::Gauge,
                      {}};
  const auto add = [&](const char* kind, size_t bytes) {
    prometheus::ClientMetric metric;
    metric.label = {{"kind", kind}};
    metric.gauge.value = static_cast<double>(bytes);
    family.metric.push_back(metric);
  };
  add("used", info.uordblks + info.hblkhd);
  add("held", info.arena + info.hblkhd);
  return family;
}

}  // namespace

std::vector<MetricFamily> ProcessMetrics::Collect() const {
  const std::optional<ProcessStat> stat = ReadStat();
  if (!stat.has_value()) return {Heap()};
  const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  const double page = static_cast<double>(sysconf(_SC_PAGESIZE));
  return {
      Single("process_cpu_seconds_total", "User and system time spent, seconds.", MetricType::Counter,
             stat->cpu_ticks / ticks),
      Single("process_resident_memory_bytes", "Resident memory.", MetricType::Gauge, stat->resident_pages * page),
      Single("process_virtual_memory_bytes", "Virtual memory.", MetricType::Gauge, stat->virtual_bytes),
      Single("process_start_time_seconds", "Start of the process, Unix time.", MetricType::Gauge,
             BootTime() + stat->start_ticks / ticks),
      Single("process_open_fds", "Open file descriptors.", MetricType::Gauge, OpenFiles()),
      Single("process_max_fds", "The most file descriptors that may be open.", MetricType::Gauge, MaxFiles()),
      Heap(),
  };
}

}  // namespace fresco
