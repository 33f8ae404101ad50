// A comparison as a page of HTML.
#pragma once

#include <string>

#include "pipeline/tool/compare.h"

namespace fresco {

inline constexpr int kDifferenceGain = 8;  // of ComparedPicture::difference

// A PSNR with two decimals; "equal" where it is infinite.
std::string Decibels(double psnr);

// One file: pictures and style lie in it.
std::string ComparisonPage(const Comparison& comparison);

}  // namespace fresco
