// fresco-model: looks into a checkpoint, without a server.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "pipeline/tool/bench.h"
#include "pipeline/tool/draw.h"
#include "pipeline/tool/inspect.h"
#include "pipeline/tool/options.h"
#include "pipeline/tool/verify.h"

namespace fresco {
namespace {

constexpr char kAbout[] =
    "Looks into a Stable Diffusion 3 / 3.5 checkpoint (a folder as diffusers writes it), without a server.\n\n"
    "  fresco-model inspect models/demo\n"
    "  fresco-model draw models/demo --prompt \"a red apple\" --output apple.png\n"
    "  fresco-model verify models/demo --python venv/bin/python\n"
    "  fresco-model bench --preset sd3.5-medium --device cuda:0\n\n"
    "Exit codes: 0 done, 1 failed or not equal, 2 usage.";

void AddModel(CLI::App* command, ModelOptions* options, bool required) {
  CLI::Option* const model =
      command->add_option("--model,model", options->model, "Diffusers folder (model_index.json, transformer/, vae/ …)");
  if (required) model->required();
  command->add_option("--base", options->base, "Diffusers folder that supplies what the model's lacks");
}

void AddDevice(CLI::App* command, ModelOptions* options) {
  command->add_option("--device", options->device, "cpu or cuda:N")->capture_default_str();
  command->add_option("--threads", options->threads, "CPU threads; 0: as many as the machine has")
      ->capture_default_str();
}

void AddPrecision(CLI::App* command, ModelOptions* options) {
  command
      ->add_option("--precision", options->precision, "fp32, bf16, fp16, or auto: bf16 where the device is fast at it")
      ->capture_default_str();
}

void AddJson(CLI::App* command, ModelOptions* options) {
  command->add_flag("--json", options->json, "Print one JSON object");
}

void AddDraw(CLI::App* command, DrawOptions* draw) {
  command->add_option("--negative", draw->negative, "What the picture should not be");
  command->add_option("--width", draw->width, "Pixels [the model's default]");
  command->add_option("--height", draw->height, "Pixels [the model's default]");
  command->add_option("--steps", draw->steps, "Denoising steps [the model's default]");
  command->add_option("--guidance", draw->guidance, "Guidance scale; 1 or less: none [the model's default]");
  command->add_option("--max-sequence-length", draw->max_sequence_length, "T5 tokens [the model's default]");
  // CLI11 itself wraps what is negative and cuts what is too large.
  command
      ->add_option_function<std::string>(
          "--seed", [draw](const std::string& text) { (void)absl::SimpleAtoi(text, &draw->seed); },
          "Of the initial noise")
      ->type_name("UINT")
      ->default_str("0")
      ->check(CLI::Validator(
          [](const std::string& text) {
            uint64_t seed = 0;
            return absl::SimpleAtoi(text, &seed)
                       ? ""
                       : "\"" + text + "\" is not a whole number from 0 to 18446744073709551615";
          },
          ""));
}

int Exit(const absl::Status& status) {
  if (status.ok()) return kDone;
  std::fprintf(stderr, "fresco-model: %s\n", std::string(status.message()).c_str());
  return kFailed;
}

// The program's options and subcommands. `exit_code` is set by the subcommand that runs.
class Program {
 public:
  Program() {
    app_.require_subcommand(1);
    app_.footer("fresco-model COMMAND --help says more about each.");
    AddInspect();
    AddDrawCommand();
    AddVerify();
    AddBench();
  }

  int Run(int argc, char** argv) {
    try {
      app_.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      return app_.exit(error) == 0 ? kDone : kUsage;
    }
    return exit_code_;
  }

 private:
  void AddInspect() {
    CLI::App* const command = app_.add_subcommand("inspect", "Lists every tensor: type, shape, bytes");
    AddModel(command, &model_, /*required=*/true);
    command->add_option("--device", model_.device, "Where it would be computed with")->capture_default_str();
    AddJson(command, &model_);
    command->callback([this] { exit_code_ = Exit(RunInspect(model_)); });
  }

  void AddDrawCommand() {
    CLI::App* const command = app_.add_subcommand("draw", "Draws one picture to a PNG file");
    AddModel(command, &model_, /*required=*/true);
    AddDevice(command, &model_);
    AddPrecision(command, &model_);
    command->add_option("--prompt", draw_.prompt, "What to draw")->required();
    AddDraw(command, &draw_);
    command->add_option("--output,-o", output_, "PNG file to write")
        ->capture_default_str()
        ->check(CLI::Validator(
            [](const std::string& path) {
              return absl::EndsWithIgnoreCase(path, ".png") ? "" : "\"" + path + "\" does not end in .png";
            },
            ""));
    AddJson(command, &model_);
    command->callback([this] { exit_code_ = Exit(RunDraw(model_, draw_, output_)); });
  }

  void AddVerify() {
    CLI::App* const command = app_.add_subcommand(
        "verify",
        "Compares with diffusers, stage by stage: token ids, text encoders, every block of the\n"
        "transformer, schedule, VAE both ways, the finished picture. Runs diffusers through a Python that\n"
        "has it, on the CPU. Exit code 0: equal within the tolerances that the table shows.");
    AddModel(command, &model_, /*required=*/true);
    AddDevice(command, &model_);
    command->add_option("--precision", verify_.precision, "fp32 or bf16, of both sides")->capture_default_str();
    command->add_option("--python", verify_.python, "Python with diffusers [$FRESCO_PYTHON, else python3]");
    command->add_option("--prompt", draw_.prompt, "What to draw")
        ->default_str("a red apple on a light blue background");
    AddDraw(command, &draw_);
    AddJson(command, &model_);
    command->callback([this] { exit_code_ = RunVerify(model_, draw_, verify_); });
  }

  void AddBench() {
    CLI::App* const command = app_.add_subcommand(
        "bench", "Measures one denoising step of the transformer: of a model, or of a known shape with random weights");
    AddModel(command, &model_, /*required=*/false);
    AddDevice(command, &model_);
    AddPrecision(command, &model_);
    command->add_option("--preset", bench_.preset,
                        "sd3.5-medium, sd3.5-large or sd3.5-large-turbo, instead of a model");
    command->add_option("--layers", bench_.layers, "With --preset: so many layers instead of all");
    command->add_option("--width", bench_.width, "Pixels (default: the model's own; 1024 with --preset)");
    command->add_option("--height", bench_.height, "Pixels (default: the model's own; 1024 with --preset)");
    command->add_option("--batch", bench_.batch, "Images at once")->capture_default_str();
    command->add_option("--guidance", bench_.guidance, "Above 1: two samples for each image")->capture_default_str();
    command->add_option("--text-tokens", bench_.text_tokens, "Of each sample")->capture_default_str();
    command->add_option("--steps", bench_.steps, "Steps to measure, after two that warm up")->capture_default_str();
    AddJson(command, &model_);
    command->callback([this] { exit_code_ = RunBench(model_, bench_); });
  }

  CLI::App app_{kAbout, "fresco-model"};
  ModelOptions model_;
  DrawOptions draw_;
  VerifyOptions verify_;
  BenchOptions bench_;
  std::string output_ = "out.png";
  int exit_code_ = kUsage;
};

}  // namespace
}  // namespace fresco

int main(int argc, char** argv) {
  try {
    return fresco::Program().Run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fresco-model: %s\n", error.what());
  } catch (...) {
    std::fprintf(stderr, "fresco-model: an exception of an unknown type\n");
  }
  return fresco::kFailed;
}
