"""Weights with scales: the scheme, the shape, and the range of the scales."""

from fresco_gdb import memory, printing
from fresco_gdb.statistics import number, share
from fresco_gdb.tensor import Tensor, TensorError


def _scales(tensor):
    """ "2048 scales, 0.00012 to 0.0041"."""
    if not tensor.defined:
        return "no scales"
    words = "%d scale%s" % (tensor.count, "" if tensor.count == 1 else "s")
    if not tensor.on_host or tensor.missing or not tensor.count:
        return "%s on %s" % (words, tensor.device)
    with memory.of(tensor) as source:
        found = tensor.statistics(source)
    if found.finite:
        words += ", %s to %s" % (number(found.min), number(found.max))
    if found.finite < found.count:
        words += ", NOT FINITE %s" % share(found.count - found.finite, found.count)
    return words


def _codes(weight):
    """Of a QuantizedWeight or QuantizedRows: "float8_e4m3fn [1536, 1536] cpu, 1536 scales, 0.0001 to 0.004"."""
    try:
        codes, scale = Tensor(weight["codes"]), Tensor(weight["scale"])
        if not codes.defined:
            return "undefined"
        return "%s %s %s, %s" % (codes.type_name, codes.shape, codes.device, _scales(scale))
    except TensorError as error:
        return "(%s)" % error


def _optional(value):
    """The value of a std::optional; None: it has none."""
    payload = value["_M_payload"]
    return payload["_M_payload"]["_M_value"] if bool(payload["_M_engaged"]) else None


def _input_words(scale, guard):
    fixed = _optional(scale)
    if fixed is None:
        return "a scale of its own for each token"
    return "input scale %s%s" % (number(float(fixed)), ", guarded" if guard else "")


def _scheme(value):
    """As SchemeName has it: "fp8-weight-only"."""
    name = str(value).rpartition("::k")[2]
    return {"High": "high", "Fp8": "fp8", "Fp8WeightOnly": "fp8-weight-only", "Int8": "int8", "Int8WeightOnly": "int8-weight-only"}.get(name, name)


class QuantizedWeightPrinter(printing.Line):
    """Also QuantizedRows: codes and a scale for each row."""

    def line(self):
        return _codes(self.value)


class QuantizedLinearPrinter(printing.Printer):
    def line(self):
        scheme = _scheme(self.value["scheme_"])
        words = "%s: %s" % (scheme, _codes(self.value["weight_"]))
        input_ = self.value["input_"]
        layer = printing.text_of(input_["layer"])
        if scheme in ("fp8", "int8"):
            words += ", " + _input_words(input_["scale"], bool(input_["overflow_guard"]))
        return "%s%s" % (words, ", layer %s" % layer if layer else "")


class Fp8ConvPrinter(printing.Printer):
    def line(self):
        options = self.value["options_"]
        guard = "guarded" if bool(options["overflow_guard"]) else "clamped at 448"
        return "fp8: %s, inputs %s, layer %s" % (_codes(self.value["weight_"]), guard, printing.text_of(options["name"]))


class LinearPrinter(printing.Line):
    """A model's linear, quantised or not. A line alone: a block has ten of them."""

    def line(self):
        quantized, parts = printing.target_of(self.value["quantized"]), printing.target_of(self.value["parts"])
        if quantized is not None:
            return QuantizedLinearPrinter(quantized).line()
        if parts is not None:
            return "of one input: " + "; ".join(LinearPrinter(part).to_string() for part in printing.elements_of(parts))
        try:
            weight = Tensor(self.value["weight"])
            return weight.describe() if weight.defined else "undefined"
        except TensorError as error:
            return "(%s)" % error


class StoredWeightPrinter(printing.Printer):
    """A layer as its file has it."""

    def line(self):
        scales = [float(scale) for scale in printing.elements_of(self.value["scale"])]
        words = printing.text_of(self.value["source"])
        shape = [int(size) for size in printing.elements_of(self.value["weight"]["shape"])]
        words += ", %s, " % shape
        words += "%d scales, %s to %s" % (len(scales), number(min(scales)), number(max(scales))) if scales else "no scales"
        fixed = _optional(self.value["input_scale"])
        return words if fixed is None else "%s, input scale %s" % (words, number(float(fixed)))


PRINTERS = {
    "^fresco::Quantized(Weight|Rows)$": QuantizedWeightPrinter,
    "^fresco::QuantizedLinear$": QuantizedLinearPrinter,
    "^fresco::Fp8Conv$": Fp8ConvPrinter,
    "^fresco::Linear$": LinearPrinter,
    "^fresco::StoredWeight$": StoredWeightPrinter,
}
