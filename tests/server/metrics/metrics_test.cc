#include "server/metrics/metrics.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pipeline/base/strings.h"
#include "tests/support/fake_engine.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(MetricsTest, AnEngineOfALostDeviceIsNotAskedAnyMore) {
  const auto lost =
      std::make_shared<FakeEngine>(FakeModelInfo("demo", "cuda:0"), std::make_shared<FakeScript>(), nullptr);
  const auto fine =
      std::make_shared<FakeEngine>(FakeModelInfo("demo", "cuda:1"), std::make_shared<FakeScript>(), nullptr);
  Metrics metrics({"demo"}, "1.2.3");
  metrics.AddEngine(lost, absl::Seconds(1));
  metrics.AddEngine(fine, absl::Seconds(1));
  EXPECT_THAT(metrics.Text(), HasSubstr("fresco_device_lost{device=\"cuda:0\"} 0\n"));
  metrics.OnDeviceLost("cuda:0", "it hangs");
  EXPECT_THAT(metrics.Text(), AllOf(HasSubstr("fresco_device_lost{device=\"cuda:0\"} 1\n"),
                                    HasSubstr("fresco_device_lost{device=\"cuda:1\"} 0\n"),
                                    HasSubstr("fresco_device_memory_bytes{device=\"cuda:1\""),
                                    Not(HasSubstr("fresco_device_memory_bytes{device=\"cuda:0\""))));
}

TEST(MetricsTest, WhatTheSchedulerTellsIsCounted) {
  Metrics metrics({"demo"}, "1.2.3");
  metrics.OnQueueDepth("demo", "interactive", 3);
  metrics.OnQueueDepth("demo", "interactive", 2);
  metrics.OnRequestsRunning(4);
  metrics.OnQueueWait("demo", "batch", absl::Milliseconds(300), absl::Milliseconds(700));
  metrics.OnRefused("demo", "tenant_share");
  metrics.OnPreempted("demo", "cpu");
  metrics.OnPreempted("demo", "cpu");
  metrics.OnBatchSplit("demo", "cpu");
  metrics.OnDeviceLost("cuda:1", "it hangs");
  metrics.OnImageMoved("demo", "cuda:1");
  metrics.OnStage("demo", "decode", absl::Milliseconds(20));
  metrics.OnStep("demo", "cpu", 3, absl::Milliseconds(70));
  metrics.OnStep("demo", "cpu", 5, absl::Milliseconds(90));
  metrics.OnStepPredicted("demo", "cpu", absl::Milliseconds(80), absl::Milliseconds(70));
  metrics.OnStepPredicted("demo", "cpu", absl::Milliseconds(60), absl::Milliseconds(90));
  metrics.OnImage("demo");
  metrics.OnImage("demo");
  metrics.OnRequestDone("id", "demo", absl::OkStatus(), absl::Seconds(7));
  metrics.CountRequest("demo", "OK");
  metrics.CountRequest("demo", "CANCELLED");
  metrics.CountJoined("demo");
  metrics.CountResultServed("demo");
  metrics.CountResultServed("demo");
  metrics.SetResultsHeld(5000);
  metrics.SetResultsHeld(4000);
  metrics.CountLostLogLine();
  metrics.CountConnectionEnded();
  const std::string text = metrics.Text();
  for (const char* line : {
           "fresco_queue_depth{model=\"demo\",priority=\"interactive\"} 2\n",
           "fresco_requests_running 4\n",
           "fresco_queue_wait_seconds_count{model=\"demo\",priority=\"batch\"} 1\n",
           "fresco_queue_wait_seconds_bucket{model=\"demo\",priority=\"batch\",le=\"0.25\"} 0\n",
           "fresco_queue_wait_seconds_bucket{model=\"demo\",priority=\"batch\",le=\"0.5\"} 1\n",
           "fresco_predicted_queue_wait_seconds_sum{model=\"demo\",priority=\"batch\"} 0.7\n",
           "fresco_queue_wait_error_seconds_bucket{model=\"demo\",priority=\"batch\",le=\"0.25\"} 0\n",
           "fresco_queue_wait_error_seconds_bucket{model=\"demo\",priority=\"batch\",le=\"0.5\"} 1\n",
           "fresco_refusals_total{model=\"demo\",reason=\"tenant_share\"} 1\n",
           "fresco_preemptions_total{device=\"cpu\",model=\"demo\"} 2\n",
           "fresco_batch_splits_total{device=\"cpu\",model=\"demo\"} 1\n",
           "fresco_device_lost{device=\"cuda:1\"} 1\n",
           "fresco_images_moved_total{device=\"cuda:1\",model=\"demo\"} 1\n",
           "fresco_step_duration_seconds_count{device=\"cpu\",model=\"demo\"} 2\n",
           "fresco_predicted_step_duration_seconds_count{device=\"cpu\",model=\"demo\"} 2\n",
           "fresco_predicted_step_duration_seconds_bucket{device=\"cpu\",model=\"demo\",le=\"0.05\"} 0\n",
           "fresco_step_prediction_error_ratio_sum{device=\"cpu\",model=\"demo\"} 0.625\n",
           "fresco_batch_size_sum{device=\"cpu\",model=\"demo\"} 8\n",
           "fresco_batch_size_bucket{device=\"cpu\",model=\"demo\",le=\"4\"} 1\n",
           "fresco_images_total{model=\"demo\"} 2\n",
           "fresco_requests_joined_total{model=\"demo\"} 1\n",
           "fresco_results_served_total{model=\"demo\"} 2\n",
           "fresco_results_kept_bytes 4000\n",
           "fresco_log_lines_lost_total 1\n",
           "fresco_connections_ended_total 1\n",
           "fresco_request_duration_seconds_sum{model=\"demo\"} 7\n",
           "fresco_build_info{version=\"1.2.3\"} 1\n",
       }) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  EXPECT_THAT(text, AllOf(HasSubstr("fresco_requests_total{code=\"CANCELLED\",model=\"demo\"} 1\n"),
                          HasSubstr("fresco_requests_total{code=\"OK\",model=\"demo\"} 1\n"),
                          HasSubstr("fresco_stage_duration_seconds_count{")));
}

TEST(MetricsTest, TenantsThatAreNamedHaveSeriesOfTheirOwn) {
  Metrics metrics({"demo"}, "1");
  metrics.NameTenants({"studio"});
  metrics.OnUsage("studio", {2, 56, absl::Seconds(3)});
  metrics.OnUsage("studio", {1, 4, absl::Milliseconds(500)});
  metrics.OnUsage("", {0, 1, absl::Seconds(1)});
  for (const char* invented : {"a", "b", "c"}) metrics.OnUsage(invented, {1, 4, absl::Seconds(1)});
  metrics.NameTenants({"night"});  // the file has changed: who was named stays
  metrics.OnUsage("studio", {1, 0, absl::ZeroDuration()});
  const std::string text = metrics.Text();
  for (const char* line : {"images_total{tenant=\"studio\"} 4\n", "steps_total{tenant=\"studio\"} 60\n",
                           "device_seconds_total{tenant=\"studio\"} 3.5\n", "steps_total{tenant=\"(none)\"} 1\n",
                           "images_total{tenant=\"(other)\"} 3\n", "images_total{tenant=\"night\"} 0\n"}) {
    EXPECT_THAT(text, HasSubstr(StrCat("fresco_tenant_", line)));
  }
  EXPECT_THAT(text, Not(HasSubstr("tenant=\"a\"")));
}

TEST(MetricsTest, FilesOfAccessAreCountedAndDated) {
  Metrics metrics({"demo"}, "1");
  metrics.SetCertificateExpiry("certificate", absl::FromUnixSeconds(2'000'000'000));
  metrics.CountReload("tokens", true);
  metrics.CountReload("tls", false);
  EXPECT_THAT(metrics.Text(),
              AllOf(HasSubstr("fresco_tls_certificate_expiry_timestamp_seconds{file=\"certificate\"} 2000000000\n"),
                    HasSubstr("fresco_reloads_total{outcome=\"ok\",setting=\"tokens\"} 1\n"),
                    HasSubstr("fresco_reloads_total{outcome=\"failed\",setting=\"tls\"} 1\n"),
                    HasSubstr("fresco_reloads_total{outcome=\"ok\",setting=\"tls\"} 0\n")));
}

TEST(MetricsTest, WhatAlertsCompareWithIsShown) {
  Metrics metrics({"demo", "large"}, "1");
  EXPECT_THAT(metrics.Text(), AllOf(HasSubstr("fresco_serving 0\n"), HasSubstr("fresco_draining 0\n"),
                                    HasSubstr("fresco_model_serving{model=\"large\"} 0\n")));
  MetricsLimits limits;
  limits.max_queue = 256;
  limits.classes[0] = {absl::Milliseconds(500), 1.5, absl::Seconds(8)};
  limits.classes[2] = {absl::Seconds(30), 10, absl::Minutes(10)};
  limits.memory_budgets = {{"cuda:0", int64_t{40} << 30}};
  limits.device_budgets = {{"cuda:0", int64_t{48} << 30}};
  metrics.SetLimits(limits);
  metrics.SetServing(true, false, {{"demo", true}, {"large", false}});
  metrics.OnDeviceMemory("cuda:0", int64_t{80} << 30);
  const std::string text = metrics.Text();
  for (const char* line : {"fresco_serving 1\n", "fresco_draining 0\n", "fresco_model_serving{model=\"demo\"} 1\n",
                           "fresco_model_serving{model=\"large\"} 0\n", "fresco_queue_limit 256\n",
                           "fresco_class_target_seconds{priority=\"interactive\"} 0.5\n",
                           "fresco_class_stretch{priority=\"interactive\"} 1.5\n",
                           "fresco_class_max_wait_seconds{priority=\"batch\"} 600\n",
                           "fresco_device_memory_capacity_bytes{device=\"cuda:0\"} 85899345920\n",
                           "fresco_memory_budget_bytes{device=\"cuda:0\"} 51539607552\n",
                           "fresco_device_memory_budget_bytes{device=\"cuda:0\"} 42949672960\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  metrics.SetServing(false, true, {{"demo", false}, {"large", false}});
  EXPECT_THAT(metrics.Text(), AllOf(HasSubstr("fresco_serving 0\n"), HasSubstr("fresco_draining 1\n"),
                                    HasSubstr("fresco_model_serving{model=\"demo\"} 0\n")));
}

TEST(MetricsTest, WhatHasNotHappenedYetIsZeroFromTheStart) {
  Metrics metrics({"one", "two"}, "1");
  metrics.Announce("one", "cpu");
  metrics.Announce("two", "cpu");
  const auto engine =
      std::make_shared<FakeEngine>(FakeModelInfo("two", "cuda:0"), std::make_shared<FakeScript>(), nullptr);
  metrics.AddEngine(engine, absl::Seconds(1));
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("fresco_log_lines_lost_total 0\n"));
  for (const char* counter : {"preemptions", "batch_splits", "images_moved"}) {
    for (const char* labels :
         {"device=\"cpu\",model=\"one\"", "device=\"cpu\",model=\"two\"", "device=\"cuda:0\",model=\"two\""}) {
      EXPECT_THAT(text, HasSubstr(StrCat("fresco_", counter, "_total{", labels, "} 0\n")));
    }
  }
  for (const char* model : {"one", "two"}) {
    for (const char* priority : {"interactive", "standard", "batch"}) {
      EXPECT_THAT(text, HasSubstr(StrCat("fresco_queue_depth{model=\"", model, "\",priority=\"", priority, "\"} 0\n")));
    }
    for (const char* reason :
         {"queue_full", "tenant_share", "deadline", "memory", "deadline_passed", "model_queue_full", "model_memory"}) {
      EXPECT_THAT(text, HasSubstr(StrCat("fresco_refusals_total{model=\"", model, "\",reason=\"", reason, "\"} 0\n")));
    }
    EXPECT_THAT(text, HasSubstr(StrCat("fresco_images_total{model=\"", model, "\"} 0\n")));
    EXPECT_THAT(text, HasSubstr(StrCat("fresco_requests_joined_total{model=\"", model, "\"} 0\n")));
    EXPECT_THAT(text, HasSubstr(StrCat("fresco_results_served_total{model=\"", model, "\"} 0\n")));
    for (const char* code : {"OK", "INTERNAL", "DATA_LOSS", "UNAVAILABLE", "DEADLINE_EXCEEDED"}) {
      EXPECT_THAT(text, HasSubstr(StrCat("fresco_requests_total{code=\"", code, "\",model=\"", model, "\"} 0\n")));
    }
  }
}

TEST(MetricsTest, EnginesAreReadAtEveryScrape) {
  const auto script = std::make_shared<FakeScript>();
  const auto first = std::make_shared<FakeEngine>(FakeModelInfo("one", "cpu"), script, nullptr);
  const auto saturated = std::make_shared<FakeScript>();
  saturated->Saturate({"ff", /*saturated=*/7, /*guarded=*/5, /*elements=*/100});
  const auto second = std::make_shared<FakeEngine>(FakeModelInfo("two", "cpu"), saturated, nullptr);
  ImageSpec seven;
  seven.prompt = "letters";
  ASSERT_TRUE(second->Prepare(seven).ok());
  Metrics metrics({"one", "two"}, "1");
  metrics.AddEngine(first, absl::Milliseconds(1500));
  metrics.AddEngine(second, absl::Milliseconds(500));
  const std::string text = metrics.Text();
  // Weights add up over the models of a device; what the process has allocated there does not.
  EXPECT_THAT(text, HasSubstr("fresco_device_memory_bytes{device=\"cpu\",kind=\"weights\"} 2000\n"));
  EXPECT_THAT(text, HasSubstr("fresco_device_memory_bytes{device=\"cpu\",kind=\"allocated\"} 1000\n"));
  EXPECT_THAT(text, HasSubstr("fresco_device_memory_bytes{device=\"cpu\",kind=\"peak\"} 5000\n"));
  EXPECT_THAT(text, HasSubstr("fresco_component_memory_bytes{device=\"cpu\",model=\"two\",component=\"transformer\","
                              "kind=\"weights\"} 1000\n"));
  EXPECT_THAT(text, HasSubstr("fresco_graph_bytes{device=\"cpu\",model=\"one\",work=\"steps\"} 300\n"));
  EXPECT_THAT(text, HasSubstr("fresco_graph_bytes{device=\"cpu\",model=\"two\",work=\"decodes\"} 20\n"));
  EXPECT_THAT(text,
              HasSubstr("fresco_weights_bytes{model=\"two\",component=\"transformer\",precision=\"fp32\"} 1000\n"));
  EXPECT_THAT(text, HasSubstr("fresco_model_load_seconds{device=\"cpu\",model=\"one\"} 1.5\n"));
  EXPECT_THAT(text, HasSubstr("fresco_prompt_cache_hits_total{model=\"one\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("fresco_prompt_cache_misses_total{model=\"one\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("fresco_prompt_cache_bytes{model=\"one\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("fresco_prompt_cache_bytes{model=\"two\"} 7\n"));
  EXPECT_THAT(text, HasSubstr("fresco_nonfinite_outputs_total{model=\"one\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("fresco_saturated_activations_total{model=\"one\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("fresco_saturated_activations_total{model=\"two\"} 7\n"));
  EXPECT_THAT(text, HasSubstr("fresco_guarded_activations_total{model=\"two\"} 5\n"));
  EXPECT_THAT(
      text,
      HasSubstr("fresco_model_info{model=\"two\",device=\"cpu\",precision_asked=\"auto\",precision=\"fp32\"} 1\n"));
  const auto job = FakeEngine(FakeModelInfo(), script, nullptr).Prepare(ImageSpec());
  EXPECT_THAT(metrics.Text(), HasSubstr("fresco_device_memory_bytes{device=\"cpu\",kind=\"allocated\"} 1010\n"));
}

TEST(MetricsTest, WhatAnEngineHasCountedStaysWhenItGoes) {
  const auto script = std::make_shared<FakeScript>();
  script->Saturate({"ff", /*saturated=*/7, /*guarded=*/5, /*elements=*/100});
  auto engine = std::make_shared<FakeEngine>(FakeModelInfo("one", "cpu"), script, nullptr);
  Metrics metrics({"one"}, "1");
  EXPECT_THAT(metrics.Text(), HasSubstr("fresco_model_unloads_total{model=\"one\",reason=\"evicted\"} 0\n"));
  metrics.AddEngine(engine, absl::Seconds(1));
  metrics.RemoveEngine(*engine, /*evicted=*/true);
  engine.reset();
  metrics.CountLoadFailure("one");
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("fresco_saturated_activations_total{model=\"one\"} 7\n"));
  EXPECT_THAT(text, HasSubstr("fresco_model_loads_total{model=\"one\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("fresco_model_unloads_total{model=\"one\",reason=\"evicted\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("fresco_model_unloads_total{model=\"one\",reason=\"asked\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("fresco_model_load_failures_total{model=\"one\"} 1\n"));
  EXPECT_THAT(text, ::testing::Not(HasSubstr("fresco_model_info{")));
  // The next one counts on.
  const auto next = std::make_shared<FakeEngine>(FakeModelInfo("one", "cpu"), script, nullptr);
  metrics.AddEngine(next, absl::Seconds(1));
  EXPECT_THAT(metrics.Text(), HasSubstr("fresco_saturated_activations_total{model=\"one\"} 14\n"));
}

TEST(MetricsTest, ModelsThatNobodyConfiguredMakeNoSeries) {
  Metrics metrics({"demo"}, "1");
  for (int i = 0; i < 100; ++i) metrics.CountRequest(StrCat("made-up-", i), "NOT_FOUND");
  const std::string text = metrics.Text();
  EXPECT_THAT(text, Not(HasSubstr("made-up")));
  EXPECT_THAT(text, HasSubstr("model=\"(unknown)\"} 100\n"));
}

TEST(MetricsTest, TheProcessIsDescribed) {
  const std::string text = Metrics({"demo"}, "1").Text();
  for (const char* name : {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_virtual_memory_bytes",
                           "process_start_time_seconds", "process_open_fds", "process_max_fds"}) {
    EXPECT_THAT(text, HasSubstr(StrCat("\n", name, " "))) << name;
  }
  const size_t at = text.find("\nprocess_start_time_seconds ");
  const double age = absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()) - std::stod(text.substr(at + 28));
  EXPECT_GT(age, -2);  // the kernel counts in ticks since a boot time that it rounds to seconds
  EXPECT_LT(age, 3600);
}

// A sanitizer's heap is its own. Each compiler has its way to say that there is one.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kHeapIsSanitizers = true;
#elif defined(__has_feature)
constexpr bool kHeapIsSanitizers = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);
#else
constexpr bool kHeapIsSanitizers = false;
#endif

TEST(MetricsTest, WhatIsAllocatedIsSeen) {
  Metrics metrics({"demo"}, "1");
  const auto used = [&] {
    const std::string text = metrics.Text();
    const size_t at = text.find("\nfresco_heap_bytes{kind=\"used\"} ");
    return at == std::string::npos ? -1 : std::stod(text.substr(at + 32));
  };
  const double before = used();
  const std::vector<char> block(64 << 20);
  EXPECT_GE(used(), kHeapIsSanitizers ? 0 : before + (64 << 20));
}

std::string Get(int port, const std::string& path) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const std::string request = StrCat("GET ", path, " HTTP/1.0\r\n\r\n");
  EXPECT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t size = 0; (size = read(fd, buffer, sizeof(buffer))) > 0;)
    answer.append(buffer, static_cast<size_t>(size));
  close(fd);
  return answer;
}

TEST(MetricsServerTest, AnswersOnAFreePort) {
  Metrics metrics({"demo"}, "1");
  const auto server = MetricsServer::Start("localhost:0", &metrics);
  ASSERT_TRUE(server.ok()) << server.status();
  ASSERT_GT((*server)->port(), 0);
  EXPECT_THAT(Get((*server)->port(), "/metrics"),
              AllOf(HasSubstr("200 OK"), HasSubstr("fresco_build_info"), HasSubstr("process_open_fds")));
}

TEST(MetricsServerTest, APortThatIsTakenIsAnError) {
  Metrics metrics({"demo"}, "1");
  const auto first = MetricsServer::Start("127.0.0.1:0", &metrics);
  ASSERT_TRUE(first.ok()) << first.status();
  const std::string address = StrCat("127.0.0.1:", (*first)->port());
  const auto second = MetricsServer::Start(address, &metrics);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(address));
}

}  // namespace
}  // namespace fresco
