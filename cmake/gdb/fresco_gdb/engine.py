"""The engine's jobs: which picture, which step, at what noise."""

import gdb

from fresco_gdb import printing
from fresco_gdb.statistics import number


class ImageSpecPrinter(printing.Printer):
    def line(self):
        spec = self.value
        words = "%dx%d, %d steps, guidance %s, seed %d" % (
            int(spec["width"]), int(spec["height"]), int(spec["steps"]), number(float(spec["guidance_scale"])), int(spec["seed"]))
        return "%s, %s" % (words, printing.excerpt(printing.text_of(spec["prompt"])))


def step_words(job):
    done, steps = int(job["step_"]), int(job["spec_"]["steps"])
    return "%d of %d steps done" % (done, steps)


class ImageJobPrinter(printing.Printer):
    """An ImageJob, as what it is: with latents and noise level where it is a DiffusionJob."""

    def __init__(self, value):
        super().__init__(value)
        try:
            self.value = self.value.cast(self.value.dynamic_type)
        except gdb.error:
            pass  # not made yet, or destroyed: shown as declared

    def line(self):
        job = self.value
        words = []
        name = job.type.strip_typedefs().unqualified().name.rpartition("::")[2]
        if name == "DiffusionJob":
            name += " %d" % int(job["id_"])
            words.append("sigma %s" % number(self._sigma()))
            if bool(job["state_"]["failed"]):
                words.append("FAILED: a result was not finite")
        warnings = len(printing.elements_of(job["warnings_"]))
        if warnings:
            words.append("%d warning%s" % (warnings, "" if warnings == 1 else "s"))
        return ", ".join(["%s: %s" % (name, step_words(job))] + words + [ImageSpecPrinter(job["spec_"]).line()])

    def _sigma(self):
        """The noise level of its latents."""
        sigmas = printing.elements_of(self.value["state_"]["schedule"]["sigmas"])
        return float(sigmas[int(self.value["step_"])])

    def members(self):
        """What changes from step to step first."""
        if any(field.name == "state_" for field in self.value.type.strip_typedefs().fields()):
            yield "latents", self.value["state_"]["latents"]
            yield "velocity", self.value["state_"]["velocity"]
        yield from printing.fields_of(self.value)


class WarningPrinter(printing.Line):
    def line(self):
        return "%s: %s" % (printing.text_of(self.value["field"]), printing.text_of(self.value["message"]))


PRINTERS = {
    "^fresco::ImageSpec$": ImageSpecPrinter,
    "^fresco::(ImageJob|DiffusionJob)$": ImageJobPrinter,
    "^fresco::Warning$": WarningPrinter,
}
