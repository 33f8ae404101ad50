// fresco-model: looks into a checkpoint, without a server.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "pipeline/base/openmp_wait.h"
#include "pipeline/engine/cuda_runtime.h"
#include "pipeline/engine/memory_limit.h"
#include "pipeline/engine/profiler.h"
#include "pipeline/tool/activations.h"
#include "pipeline/tool/bench.h"
#include "pipeline/tool/budget.h"
#include "pipeline/tool/calibrate.h"
#include "pipeline/tool/compare.h"
#include "pipeline/tool/draw.h"
#include "pipeline/tool/inspect.h"
#include "pipeline/tool/options.h"
#include "pipeline/tool/profile.h"
#include "pipeline/tool/quantize.h"
#include "pipeline/tool/shared_options.h"
#include "pipeline/tool/verify.h"

namespace fresco {
namespace {

constexpr double kMostPsnr = 200;  // dB; pictures of 8 bits that differ at all have less

constexpr char kAbout[] =
    "Looks into a Stable Diffusion 3 / 3.5 checkpoint (a folder as diffusers writes it, or a single .safetensors "
    "file),\n"
    "without a server.\n\n"
    "  fresco-model inspect models/demo\n"
    "  fresco-model inspect --preset sd3.5-medium --precision fp8 --budget 8GiB\n"
    "  fresco-model draw models/demo --prompt \"a red apple\" --output apple.png\n"
    "  fresco-model draw sd3.5_medium.safetensors --base stable-diffusion-3.5-medium --prompt \"a red apple\"\n"
    "  fresco-model verify models/demo --python venv/bin/python\n"
    "  fresco-model quantize models/demo --precision fp8 --output demo-fp8\n"
    "  fresco-model compare models/demo --html compare.html\n"
    "  fresco-model bench --preset sd3.5-medium --device cuda:0\n"
    "  fresco-model profile models/demo --trace trace.json\n\n"
    "Exit codes: 0 done, 1 failed or not equal, 2 usage.";

// Shows an option that has a place as well as a name once: by its place.
class Help : public CLI::Formatter {
 public:
  std::string make_option(const CLI::Option* option, bool is_positional) const override {
    const bool shown = option->get_positional() && !is_positional;
    return shown ? "" : CLI::Formatter::make_option(option, is_positional);
  }
};

// CLI11's Range takes NaN.
std::string CheckPsnr(const std::string& text) {
  double psnr = 0;
  const bool possible = absl::SimpleAtod(text, &psnr) && psnr >= 0 && psnr <= kMostPsnr;
  return possible ? "" : absl::StrCat("\"", text, "\" is not a number of dB from 0 to ", kMostPsnr);
}

int Exit(const absl::Status& status) {
  if (status.ok()) return kDone;
  std::fprintf(stderr, "fresco-model: %s\n", std::string(status.message()).c_str());
  return kFailed;
}

int ExitOf(const absl::StatusOr<int>& code) {
  return code.ok() ? *code : Exit(code.status());
}

// Says of a missing GPU what to do; the engine would but name the library or the driver that is not there.
absl::Status CheckDevice(const std::string& device) {
  if (!absl::StartsWith(device, "cuda") || CudaDeviceCount() > 0) return absl::OkStatus();
  const absl::Status cuda = LoadCuda();
  const std::string cause(cuda.ok() ? "the driver finds none" : cuda.message());
  return absl::UnavailableError(absl::StrCat(
      "--device ", device, ": this machine has no CUDA GPU that this build can use (", cause, "); use --device cpu"));
}

// The program's options and subcommands. `exit_code` is set by the subcommand that runs.
class Program {
 public:
  Program() {
    app_.require_subcommand(1);
    app_.set_version_flag("--version", "fresco-model " FRESCO_VERSION);
    app_.formatter(std::make_shared<Help>());
    AddInspect();
    AddDrawCommand();
    AddVerify();
    AddQuantize();
    AddCompare();
    AddBench();
    AddProfile();
    AddCalibrate();
    app_.footer("fresco-model COMMAND --help says more about each.");  // last: subcommands would take it over
  }

  int Run(int argc, char** argv) {
    argv_ = argv;
    try {
      app_.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      if (error.get_exit_code() == 0) return app_.exit(error);
      std::fprintf(stderr, "fresco-model: %s\n(--help explains the options)\n", Explain(error).c_str());
      return kUsage;
    }
    return exit_code_;
  }

 private:
  // CLI11 would say of an unknown command but that one is required.
  std::string Explain(const CLI::ParseError& error) const {
    const std::vector<std::string> unknown = app_.remaining();
    const std::string said = error.what();
    if (said == "--model is required") return "no model: its folder or .safetensors file comes after the command";
    if (!app_.get_subcommands().empty() || unknown.empty()) return said;
    std::string known;
    for (const CLI::App* command : app_.get_subcommands(nullptr))
      absl::StrAppend(&known, known.empty() ? "" : ", ", command->get_name());
    const char* const kind = absl::StartsWith(unknown.front(), "-") ? "option" : "command";
    return absl::StrCat("unknown ", kind, " '", unknown.front(), "'; the commands are ", known);
  }

  // Does a subcommand's work where its device is.
  int RunOnDevice(const std::function<int()>& work) const {
    QuietProfiler();
    LetOpenMpThreadsSleep(argv_);  // may start the program anew: before any file is opened
    absl::Status ready = CheckDevice(model_.device);
    if (ready.ok() && model_.memory_limit > 0) ready = SetMemoryLimit(model_.device, model_.memory_limit);
    return ready.ok() ? work() : Exit(ready);
  }

  void AddInspect() {
    CLI::App* const command = app_.add_subcommand(
        "inspect",
        "Shows the modules: how they are stored and computed, their share of memory, their scales.\n"
        "With --activations: draws, and says what each layer is given at each step, what of it is clamped,\n"
        "and with --against which layer is the first to lose it.");
    AddModel(command, &model_)->option_text("(or --budget with --preset)");
    AddDevice(command, &model_);
    AddJson(command, &model_);
    AddPrecision(command, &model_);
    AddAttention(command, &model_.attention);
    AddCalibration(command, &model_);
    command->add_option("--html", inspect_.html, "Page to write: the modules, or with --activations layers and steps")
        ->type_name("FILE");
    CLI::Option* const depth =
        command->add_option("--depth", inspect_.depth, "Levels of modules below each part; 0: all of them")
            ->check(CLI::NonNegativeNumber.description(""))
            ->type_name("N")
            ->capture_default_str();
    CLI::Option* const tensors =
        command->add_flag("--tensors", inspect_.tensors, "List every tensor rather than the modules");
    tensors->excludes(depth);
    CLI::Option* const activations =
        command->add_flag("--activations", activate_, "Draw, and look at what passes through the layers")
            ->excludes(depth)
            ->excludes(tensors);
    CLI::Option* const budget = AddBudget(
        command, &budget_.bytes,
        "Say whether the model fits so much of the device's memory, as 8GiB, and what would; nothing of it is\n"
        "loaded. Exit code 0: it fits, 1: it does not");
    budget->excludes(activations);
    AddActivations(command, activations);
    AddBudgetLoad(command, budget);
    command->callback([this, command] {
      CheckInspect(*command);
      activations_.html = inspect_.html;
      if (budget_.bytes > 0) {
        exit_code_ = ExitOf(RunBudget(model_, draw_, budget_));
        return;
      }
      exit_code_ = activate_ ? RunOnDevice([this] { return Exit(RunActivations(model_, draw_, activations_)); })
                             : Exit(RunInspect(model_, inspect_));
    });
  }

  // All of them need `activations`: without it nothing is drawn.
  void AddActivations(CLI::App* command, CLI::Option* activations) {
    const std::vector<CLI::Option*> before = command->get_options();
    AddMemoryLimit(command, &model_);
    command->add_option("--against", activations_.against, "Compare with this precision: fp32, bf16, fp16 …")
        ->type_name("TYPE");
    AddVae(command, &model_.vae);
    AddText(command, "--prompt", &draw_.prompt, "What to draw [a red apple on a light blue background]");
    command->add_option("--prompts", activations_.prompts_file, "File with a prompt a line, instead of --prompt")
        ->type_name("FILE")
        ->excludes("--prompt");
    AddDraw(command, &draw_);
    command
        ->add_option("--features", activations_.features,
                     "Write the layer's feature maps: NAME-STEP.png, of the channels with the largest values")
        ->type_name("LAYER");
    command->add_option("--output,-o", activations_.output, "Folder for feature maps")
        ->type_name("DIR")
        ->capture_default_str();
    for (CLI::Option* option : command->get_options()) {
      const bool shared =
          std::find(std::begin(kPictureShape), std::end(kPictureShape), option->get_name()) != std::end(kPictureShape);
      if (!shared && std::find(before.begin(), before.end(), option) == before.end()) option->needs(activations);
    }
  }

  void AddBudgetLoad(CLI::App* command, CLI::Option* budget) {
    command
        ->add_option("--preset", budget_.preset,
                     "With --budget: sd3.5-medium, sd3.5-large or sd3.5-large-turbo, instead of a model")
        ->type_name("NAME")
        ->needs(budget);
    command->add_option("--batch", budget_.batch, "With --budget: images at once")
        ->type_name("N")
        ->needs(budget)
        ->capture_default_str();
  }

  // What CLI11's `needs` cannot say: one of two.
  void CheckInspect(const CLI::App& command) const {
    if (model_.model.empty() && budget_.preset.empty()) throw CLI::RequiredError("--model");
    if (!model_.model.empty() && !budget_.preset.empty()) throw CLI::ExcludesError("--model", "--preset");
    if (!inspect_.html.empty() && budget_.bytes > 0) throw CLI::ExcludesError("--html", "--budget");
    for (const char* option : kPictureShape) {
      if (command.count(option) > 0 && !activate_ && budget_.bytes == 0)
        throw CLI::RequiresError(option, "--activations or --budget");
    }
  }

  void AddDrawCommand() {
    CLI::App* const command = app_.add_subcommand("draw", "Draws one picture to a PNG file");
    AddNeededModel(command, &model_);
    AddDevice(command, &model_);
    AddPrecision(command, &model_);
    AddAttention(command, &model_.attention);
    AddMemoryLimit(command, &model_);
    AddVae(command, &model_.vae);
    AddText(command, "--prompt", &draw_.prompt, "What to draw")->required();
    AddDraw(command, &draw_);
    AddCalibration(command, &model_);
    AddNoiseCorrection(command);
    AddBudget(command, &model_.budget,
              "Hold at most so much of the device's memory, as 8GiB: text encoders and VAE are loaded when needed");
    command->add_option("--output,-o", output_, "PNG file to write")
        ->type_name("FILE")
        ->capture_default_str()
        ->check(CLI::Validator(
            [](const std::string& path) {
              return absl::EndsWithIgnoreCase(path, ".png") ? "" : "\"" + path + "\" does not end in .png";
            },
            ""));
    AddJson(command, &model_);
    command->callback([this] { exit_code_ = RunOnDevice([this] { return Exit(RunDraw(model_, draw_, output_)); }); });
  }

  void AddVerify() {
    CLI::App* const command = app_.add_subcommand(
        "verify",
        "Compares with diffusers, stage by stage: token ids, text encoders, every block of the\n"
        "transformer, schedule, VAE both ways, the finished picture. Runs diffusers through a Python that\n"
        "has it, on the CPU. Exit code 0: equal within the tolerances that the table shows.");
    AddNeededModel(command, &model_);
    AddDevice(command, &model_);
    command->add_option("--precision", verify_.precision, "fp32 or bf16, of both sides")
        ->type_name("TYPE")
        ->capture_default_str();
    command->add_option("--python", verify_.python, "Python with diffusers [$FRESCO_PYTHON, else python3]")
        ->type_name("PROGRAM");
    AddText(command, "--prompt", &draw_.prompt, "What to draw")->default_str("a red apple on a light blue background");
    AddDraw(command, &draw_);
    command->get_option("--negative")->default_str("blurry");
    for (const char* side : {"--width", "--height"})
      command->get_option(side)->description("[the model's default, at most 256]");
    command->get_option("--steps")->description("Denoising steps [the model's default, at most 3]");
    AddJson(command, &model_);
    command->callback([this] { exit_code_ = RunOnDevice([this] { return RunVerify(model_, draw_, verify_); }); });
  }

  void AddQuantize() {
    CLI::App* const command = app_.add_subcommand(
        "quantize",
        "Writes the model with its linears in FP8 or int8: a folder that is loaded without further work,\n"
        "or one file (--output NAME.safetensors) that ComfyUI reads too");
    AddNeededModel(command, &model_);
    command->add_option("--precision", quantize_.precision, "fp8, fp8-weight-only or int8")
        ->type_name("TYPE")
        ->check(CLI::IsMember({"fp8", "fp8-weight-only", "int8"}, CLI::ignore_space).description(""))
        ->capture_default_str();
    command->add_option("--output,-o", quantize_.output, "Folder or .safetensors file to write")
        ->type_name("PATH")
        ->required();
    command
        ->add_option_function<std::vector<std::string>>(
            "--layer",
            [this](const std::vector<std::string>& rules) {
              for (const std::string& rule : rules) quantize_.layers.push_back(ParseLayerRule(rule).value());
            },
            "Store the linears that a pattern matches otherwise: 'transformer_blocks.*.ff.net.2=high'.\n"
            "high, fp8, fp8-weight-only, int8 or int8-weight-only; may be given again, the last that matches counts")
        ->type_name("PATTERN=SCHEME")
        ->expected(1)
        ->take_all()
        ->check(CLI::Validator(
            [](const std::string& rule) { return std::string(ParseLayerRule(rule).status().message()); }, ""));
    AddCalibration(command, &model_);
    AddKeep(command);
    command->add_flag("--with-encoders", quantize_.with_encoders, "A file holds text encoders and VAE too");
    command->add_flag("--force", quantize_.force, "Replace what is there");
    command->add_option("--threads", model_.threads, "CPU threads; 0: as many as the machine has")
        ->check(CLI::NonNegativeNumber.description(""))
        ->type_name("N")
        ->capture_default_str();
    AddJson(command, &model_);
    command->callback(
        [this] { exit_code_ = RunOnDevice([this] { return Exit(RunQuantize(model_, draw_, keep_, quantize_)); }); });
  }

  void AddNoiseCorrection(CLI::App* command) {
    // Not as CLI11's flag of an optional, which is a count that begins at 0: false where nobody has asked.
    command->add_flag_function(
        "--noise-correction,!--no-noise-correction", [this](int64_t sum) { draw_.noise_correction = sum > 0; },
        "Use the calibration's noise correction, or not [where it has one]");
  }

  void AddKeep(CLI::App* command) {
    CLI::Option* const prompts =
        command->add_option("--prompts", keep_.prompts_file, "With --keep-psnr: file with a prompt a line")
            ->type_name("FILE");
    CLI::Option* const keep =
        command
            ->add_option_function<double>(
                "--keep-psnr", [this](double psnr) { keep_.psnr = psnr; },
                "Keep as few layers high as it takes for pictures of --prompts to have this PSNR to fp32's;\n"
                "by the calibration's sensitivities")
            ->type_name("DB")
            ->check(CLI::Validator(CheckPsnr, ""))
            ->needs(prompts);
    AddDraw(command, &draw_);
    // Only then are pictures drawn.
    for (const char* drawing : {"--prompts", "--negative", "--width", "--height", "--steps", "--guidance",
                                "--max-sequence-length", "--seed", "--static-scales", "--no-overflow-guard"})
      command->get_option(drawing)->needs(keep);
  }

  void AddCompare() {
    CLI::App* const command = app_.add_subcommand(
        "compare",
        "Draws the same pictures in several precisions and says what each costs and how far it is from the\n"
        "highest of them");
    AddNeededModel(command, &model_);
    AddDevice(command, &model_);
    command
        ->add_option("--precisions", compare_.precisions,
                     "fp32, bf16, fp16, fp8, fp8-weight-only, int8, with commas between\n"
                     "[all but fp16; on a GPU fp16,int8,fp8]")
        ->type_name("TYPES")
        ->delimiter(',');
    AddAttention(command, &model_.attention);
    command->add_option("--prompts", compare_.prompts_file, "File with a prompt a line [four of the demo model's]")
        ->type_name("FILE");
    AddCalibration(command, &model_);
    AddNoiseCorrection(command);
    command->add_option("--html", compare_.html, "Page to write, with the pictures side by side")->type_name("FILE");
    AddDraw(command, &draw_);
    command->get_option("--seed")->description("Of the first prompt's noise; the next have the next");
    command->add_flag("--json", model_.json, "Print one JSON list");
    command->callback([this] {
      if (const auto highest = HighestPrecision(compare_.precisions); !compare_.precisions.empty() && !highest.ok())
        throw CLI::ValidationError("--precisions", std::string(highest.status().message()));
      exit_code_ = RunOnDevice([this] { return Exit(RunCompare(model_, draw_, compare_)); });
    });
  }

  void AddBench() {
    CLI::App* const command = app_.add_subcommand(
        "bench", "Measures one denoising step of the transformer: of a model, or of a known shape with random weights");
    AddModel(command, &model_)->option_text("(or --preset)");
    AddDevice(command, &model_);
    AddPrecision(command, &model_);
    AddAttention(command, &model_.attention);
    AddMemoryLimit(command, &model_);
    command->add_option("--preset", bench_.preset, "sd3.5-medium, sd3.5-large or sd3.5-large-turbo, instead of a model")
        ->type_name("NAME");
    command->add_option("--layers", bench_.layers, "With --preset: so many layers [all]")->type_name("N");
    command
        ->add_option("--beside", bench_.beside,
                     "Another precision, whose steps take turns with these: how many times as fast is this one?")
        ->type_name("TYPE");
    AddBenchStep(command);
    command
        ->add_option("--recorded", bench_.recorded,
                     "Steps to record after these, for what each layer takes and gaps cost; 0: none")
        ->type_name("N")
        ->capture_default_str();
    command->add_option("--top", bench_.top, "Layers to print, the longest; 0: all, in their order")
        ->type_name("N")
        ->capture_default_str();
    AddJson(command, &model_);
    command->callback([this] { exit_code_ = RunOnDevice([this] { return RunBench(model_, bench_); }); });
  }

  void AddCalibrate() {
    CLI::App* const command = app_.add_subcommand(
        "calibrate",
        "Learns from drawing prompts what a precision does to a model: ranges of its activations, how\n"
        "sensitive each layer is, and the correction of the noise. Writes it to a file that the server and\n"
        "the other commands take. Interrupted, it goes on with --resume.");
    AddNeededModel(command, &model_);
    AddDevice(command, &model_);
    command->add_option("--prompts", calibrate_.prompts, "What to draw, one to a line")->type_name("FILE")->required();
    command->add_option("--output,-o", calibrate_.output, "File to write; beside it FILE.state while it is at work")
        ->type_name("FILE")
        ->required();
    command->add_option("--precision", calibrate_.precision, "fp8, fp8-weight-only or int8")
        ->type_name("TYPE")
        ->capture_default_str();
    command->add_option("--high", calibrate_.high, "fp32, bf16 or fp16: what it is measured against")
        ->type_name("TYPE")
        ->capture_default_str();
    AddDraw(command, &draw_);
    for (const char* unused : {"--negative", "--max-sequence-length"})
      command->remove_option(command->get_option(unused));
    command->add_option("--buckets", calibrate_.buckets, "Groups of noise levels, at most")
        ->type_name("N")
        ->capture_default_str();
    command
        ->add_option("--sensitivity-samples", calibrate_.sensitivity_samples,
                     "Steps that each layer is tried on alone; 0: none")
        ->type_name("N")
        ->capture_default_str();
    command
        ->add_option("--high-inputs", calibrate_.high_inputs,
                     "Share of the work whose activations may stay high, where that helps most")
        ->type_name("SHARE")
        ->capture_default_str();
    command
        ->add_option("--rounding-samples", calibrate_.rounding_samples,
                     "Steps whose activations decide how the weights are rounded; 0: to the nearest")
        ->type_name("N")
        ->capture_default_str();
    command->add_flag("--resume", calibrate_.resume, "Go on where an interrupted run stood");
    AddJson(command, &model_);
    command->callback([this] { exit_code_ = RunOnDevice([this] { return RunCalibrate(model_, draw_, calibrate_); }); });
  }

  void AddProfile() {
    CLI::App* const command = app_.add_subcommand(
        "profile",
        "Says where the time goes: what each layer of each stage (texts, a step, decoding) takes, its work, how much\n"
        "of the device's peak that is; who holds the memory meanwhile; and writes a trace for Perfetto. Half of the\n"
        "steps are recorded.");
    AddModel(command, &model_)->option_text("(or --preset)");
    AddDevice(command, &model_);
    AddPrecision(command, &model_);
    AddAttention(command, &model_.attention);
    AddMemoryLimit(command, &model_);
    AddVae(command, &model_.vae);
    AddCalibration(command, &model_);
    command->add_option("--preset", profile_.preset, "sd3.5-medium, sd3.5-large or sd3.5-large-turbo: its steps alone")
        ->type_name("NAME");
    command->add_option("--layers", profile_.layers, "With --preset: so many layers [all]")->type_name("N");
    AddText(command, "--prompt", &draw_.prompt, "What to draw [a red apple on a light blue background]");
    AddDraw(command, &draw_);
    command->get_option("--steps")->description("Steps to record; as many are measured without the profiler [5]");
    command->add_option("--batch", profile_.batch, "Images at once")->type_name("N")->capture_default_str();
    command->add_option("--top", profile_.top, "Layers to print, the longest; 0: all, in their order")
        ->type_name("N")
        ->capture_default_str();
    command->add_option("--trace", profile_.trace, "Trace to write, in Chrome's format")->type_name("FILE");
    AddJson(command, &model_);
    command->callback(
        [this] { exit_code_ = RunOnDevice([this] { return Exit(RunProfile(model_, draw_, profile_)); }); });
  }

  void AddBenchStep(CLI::App* command) {
    command->add_option("--width", bench_.width, "[the model's default; 1024 with --preset]")->type_name("PIXELS");
    command->add_option("--height", bench_.height, "[the model's default; 1024 with --preset]")->type_name("PIXELS");
    command->add_option("--batch", bench_.batch, "Images at once")->type_name("N")->capture_default_str();
    command->add_option("--guidance", bench_.guidance, "Above 1: two samples for each image")
        ->type_name("SCALE")
        ->capture_default_str();
    command->add_option("--text-tokens", bench_.text_tokens, "Of each sample")->type_name("N")->capture_default_str();
    command->add_option("--steps", bench_.steps, "Steps to measure, after those that warm up")
        ->type_name("N")
        ->capture_default_str();
  }

  // Options of inspect that --activations and --budget look at.
  static constexpr const char* kPictureShape[] = {
      "--vae-tiling", "--vae-tile", "--vae-precision", "--no-vae-overflow-guard",
      "--width",      "--height",   "--guidance",      "--max-sequence-length"};

  CLI::App app_{kAbout, "fresco-model"};
  char** argv_ = nullptr;
  ModelOptions model_;
  DrawOptions draw_;
  VerifyOptions verify_;
  QuantizeOptions quantize_;
  KeepOptions keep_;
  CompareOptions compare_;
  InspectOptions inspect_;
  ActivationsOptions activations_;
  bool activate_ = false;  // --activations
  BenchOptions bench_;
  ProfileOptions profile_;
  BudgetOptions budget_;
  CalibrateOptions calibrate_;
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
