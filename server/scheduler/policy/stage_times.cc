#include "server/scheduler/policy/stage_times.h"

#include "pipeline/base/strings.h"

namespace fresco {

std::string TextCurveName(std::string_view model) {
  return StrCat(model, "/text");
}

std::string DecodeCurveName(std::string_view model) {
  return StrCat(model, "/decode");
}

CurveId TextCurve(CostModel* costs, std::string_view model, int text_tokens) {
  return costs->Curve(TextCurveName(model), text_tokens);
}

CurveId DecodeCurve(CostModel* costs, std::string_view model, int picture_tokens) {
  return costs->Curve(DecodeCurveName(model), picture_tokens);
}

double TextSeconds(const CostModel& costs, CurveId text_curve, int texts) {
  return texts == 0 ? 0 : costs.StepSeconds(text_curve, texts);
}

double DecodeSeconds(const CostModel& costs, CurveId decode_curve) {
  return costs.StepSeconds(decode_curve, 1);
}

double StageSeconds(const CostModel& costs, CurveId text_curve, CurveId decode_curve) {
  const double text = text_curve < 0 ? 0 : TextSeconds(costs, text_curve, 1);
  return text + (decode_curve < 0 ? 0 : DecodeSeconds(costs, decode_curve));
}

}  // namespace fresco
