// How long texts take to encode and pictures to decode. Kept in the cost model, and so saved with it, as curves of
// their own: for the model "sd3.5" those of "sd3.5/text", by tokens of a text and number of texts, and of
// "sd3.5/decode", by tokens of the picture. (No model's name holds a slash.)
#pragma once

#include <string>
#include <string_view>

#include "server/scheduler/policy/cost_model.h"

namespace fresco {

std::string TextCurveName(std::string_view model);
std::string DecodeCurveName(std::string_view model);

// To be measured with CostModel::RecordStep, whose rows are texts or, of a decode, 1.
CurveId TextCurve(CostModel* costs, std::string_view model, int text_tokens);
CurveId DecodeCurve(CostModel* costs, std::string_view model, int picture_tokens);

// Seconds; 0 for no texts, or while nothing is known of the model.
double TextSeconds(const CostModel& costs, CurveId text_curve, int texts);
double DecodeSeconds(const CostModel& costs, CurveId decode_curve);
// Of one text and the picture; -1: without it.
double StageSeconds(const CostModel& costs, CurveId text_curve, CurveId decode_curve);

}  // namespace fresco
