#include "pipeline/image/resize.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace fresco {
namespace {

// The part of one axis that an output pixel covers: `weights` over the input pixels from `first` on. Weights are in
// units of 1/outputs of an input pixel, so that they are whole numbers; they add up to the number of input pixels.
struct Span {
  int first;
  std::vector<int64_t> weights;
};

std::vector<Span> Spans(int inputs, int outputs) {
  std::vector<Span> spans;
  spans.reserve(outputs);
  for (int64_t i = 0; i < outputs; ++i) {
    const int64_t begin = i * inputs, end = begin + inputs;  // of the area, where input pixel k is [k, k + 1) * outputs
    Span span{static_cast<int>(begin / outputs), {}};
    for (int64_t k = span.first; k * outputs < end; ++k) {
      span.weights.push_back(std::min(end, (k + 1) * outputs) - std::max(begin, k * outputs));
    }
    spans.push_back(std::move(span));
  }
  return spans;
}

// One row of sums over `span`'s rows of the image: [image.width * 3].
std::vector<int64_t> SumRows(const Image& image, const Span& span) {
  const size_t row_bytes = size_t{3} * image.width;
  std::vector<int64_t> sums(row_bytes);
  for (size_t k = 0; k < span.weights.size(); ++k) {
    const uint8_t* row = image.rgb.data() + (span.first + k) * row_bytes;
    for (size_t i = 0; i < row_bytes; ++i) sums[i] += span.weights[k] * row[i];
  }
  return sums;
}

}  // namespace

Image ResizeArea(const Image& image, int width, int height) {
  Image out{width, height, {}};
  out.rgb.reserve(size_t{3} * width * height);
  const std::vector<Span> columns = Spans(image.width, width);
  const int64_t area = int64_t{image.width} * image.height;
  for (const Span& rows : Spans(image.height, height)) {
    const std::vector<int64_t> sums = SumRows(image, rows);
    for (const Span& column : columns) {
      for (int c = 0; c < 3; ++c) {
        int64_t sum = area / 2;
        for (size_t k = 0; k < column.weights.size(); ++k) sum += column.weights[k] * sums[(column.first + k) * 3 + c];
        out.rgb.push_back(static_cast<uint8_t>(sum / area));
      }
    }
  }
  return out;
}

Image FitInside(const Image& image, int max_side) {
  const int64_t longer = std::max(image.width, image.height);
  if (longer <= max_side) return image;
  const auto scaled = [&](int64_t side) { return std::max<int>(1, (side * max_side + longer / 2) / longer); };
  return ResizeArea(image, scaled(image.width), scaled(image.height));
}

}  // namespace fresco
