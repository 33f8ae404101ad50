#include "pipeline/tool/shared_options.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <map>
#include <string_view>
#include <vector>

#include "absl/strings/numbers.h"

namespace fresco {
namespace {

// An option that takes one of `names` and stores the enumerator of that index.
template <typename Enum, size_t kCount>
CLI::Option* AddChoice(CLI::App* command, const char* option, const std::string_view (&names)[kCount], Enum* choice,
                       const char* description) {
  const std::vector<std::string> known(std::begin(names), std::end(names));
  const auto choose = [choice, known](const std::string& name) {
    *choice = static_cast<Enum>(std::find(known.begin(), known.end(), name) - known.begin());
  };
  return command->add_option_function<std::string>(option, choose, description)
      ->check(CLI::IsMember(known).description(""))
      ->default_str(known[static_cast<size_t>(*choice)]);
}

// Of the XDG base directories; empty where there is neither: what was measured is not kept.
std::string CacheFolder() {
  const char* const cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache == '/') return std::string(cache) + "/fresco";
  const char* const home = std::getenv("HOME");
  return home != nullptr && *home == '/' ? std::string(home) + "/.cache/fresco" : "";
}

}  // namespace

CLI::Option* AddModel(CLI::App* command, ModelOptions* options) {
  command
      ->add_option("--base", options->base,
                   "Diffusers folder that supplies what the model lacks: configurations, tokenizers, encoders, VAE")
      ->type_name("DIR");
  return command
      ->add_option(
          "--model,MODEL", options->model,
          "Diffusers folder (model_index.json, transformer/, vae/ …) or single .safetensors file; or --model MODEL")
      ->type_name("PATH");
}

void AddNeededModel(CLI::App* command, ModelOptions* options) {
  AddModel(command, options)->required()->option_text("REQUIRED");
}

void AddDevice(CLI::App* command, ModelOptions* options) {
  command->add_option("--device", options->device, "cpu or cuda:N")->type_name("DEVICE")->capture_default_str();
  command->add_option("--threads", options->threads, "CPU threads; 0: as many as the machine has")
      ->check(CLI::NonNegativeNumber.description(""))
      ->type_name("N")
      ->capture_default_str();
  options->kernel_choices = CacheFolder();
}

CLI::Option* AddMemoryLimit(CLI::App* command, ModelOptions* options) {
  return command
      ->add_option("--memory-limit", options->memory_limit,
                   "Run out of memory beyond so much of the device, as 600MiB: what a smaller one would do")
      ->type_name("BYTES")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false).description(""))
      ->check(CLI::NonNegativeNumber.description(""));
}

CLI::Option* AddBudget(CLI::App* command, int64_t* bytes, const char* description) {
  return command->add_option("--budget", *bytes, description)
      ->default_str("")
      ->type_name("BYTES")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false).description(""))
      ->check(CLI::PositiveNumber.description(""));
}

void AddPrecision(CLI::App* command, ModelOptions* options) {
  command
      ->add_option("--precision", options->precision,
                   "fp32, bf16, fp16, fp8, fp8-weight-only, int8, or auto: the fastest that the device computes")
      ->type_name("TYPE")
      ->capture_default_str();
}

void AddVae(CLI::App* command, VaeOptions* vae) {
  AddChoice(command, "--vae-tiling", kVaeTilingNames, &vae->tiling,
            "Decode in overlapping tiles, in bounded memory: always, never, or auto: pictures above a megapixel")
      ->type_name("WHEN");
  command->add_option("--vae-tile", vae->tile_size, "A tile's side; a multiple of 32")
      ->type_name("PIXELS")
      ->capture_default_str();
  AddChoice(command, "--vae-precision", kVaePrecisionNames, &vae->precision, "fp8, or auto: the model's own type")
      ->type_name("TYPE");
  command->add_flag("!--no-vae-overflow-guard", vae->overflow_guard,
                    "Naive FP8, which saturates and bands: to see what the guard is for");
}

void AddAttention(CLI::App* command, std::optional<AttentionScheme>* attention) {
  static const std::map<std::string, AttentionScheme> kSchemes = {{"high", AttentionScheme::kHigh},
                                                                  {"fp8", AttentionScheme::kFp8}};
  command
      ->add_option_function<std::string>(
          "--attention", [attention](const std::string& name) { *attention = kSchemes.at(name); },
          "Of precision fp8, what attention multiplies: high (the model's own type) or fp8 [the model's own, else "
          "high]")
      ->type_name("TYPE")
      ->check(CLI::IsMember({"high", "fp8"}).description(""));
}

void AddCalibration(CLI::App* command, ModelOptions* options) {
  command
      ->add_option("--calibration", options->calibration,
                   "What `calibrate` wrote [calibration.json of the model, if it has one]")
      ->type_name("FILE");
  command->add_flag("--static-scales", options->static_scales,
                    "Quantise activations with the calibration's scales, not with one for each token");
  command->add_flag("!--no-overflow-guard", options->overflow_guard,
                    "With static scales: clamp what is beyond them, to see what the guard is for");
}

void AddJson(CLI::App* command, ModelOptions* options) {
  command->add_flag("--json", options->json, "Print one JSON object");
}

CLI::Option* AddText(CLI::App* command, const char* name, std::optional<std::string>* text, const char* description) {
  return command
      ->add_option_function<std::string>(
          name, [text](const std::string& given) { *text = given; }, description)
      ->type_name("TEXT");
}

void AddDraw(CLI::App* command, DrawOptions* draw) {
  AddText(command, "--negative", &draw->negative, "What the picture should not be");
  command->add_option("--width", draw->width, "[the model's default]")->type_name("PIXELS");
  command->add_option("--height", draw->height, "[the model's default]")->type_name("PIXELS");
  command->add_option("--steps", draw->steps, "Denoising steps [the model's default]")->type_name("N");
  command->add_option("--guidance", draw->guidance, "1 or less: none [the model's default]")->type_name("SCALE");
  command->add_option("--max-sequence-length", draw->max_sequence_length, "T5 tokens [the model's default]")
      ->type_name("N");
  // CLI11 itself wraps what is negative and cuts what is too large.
  command
      ->add_option_function<std::string>(
          "--seed", [draw](const std::string& text) { (void)absl::SimpleAtoi(text, &draw->seed); },
          "Of the initial noise")
      ->type_name("N")
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

}  // namespace fresco
