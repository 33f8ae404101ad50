"""What a user can set: `set fresco-elements N`, `set fresco-device-values on`."""

import gdb


class _Elements(gdb.Parameter):
    """How many elements of a tensor a printer looks at.

    A printer must be quick, as an IDE asks it for every variable at every step: of a larger tensor only the first are looked
    at, in the order of memory, and the line says so. fresco-stats looks at all. 0: printers look at none but the ones they show."""

    set_doc = "Set how many elements of a tensor a printer looks at."
    show_doc = "Show how many elements of a tensor a printer looks at."

    def __init__(self):
        super().__init__("fresco-elements", gdb.COMMAND_DATA, gdb.PARAM_ZUINTEGER)
        self.value = 1 << 18  # the latents of a picture of 1024 x 1024, in about 30 ms

    def get_set_string(self):
        return ""

    def get_show_string(self, value):
        return "Printers look at %s elements of a tensor." % value


class _DeviceValues(gdb.Parameter):
    """Whether printers show the values of tensors in a GPU's memory.

    For these the process has to call cudaMemcpy, which waits for the GPU: printers do so only where asked. fresco-stats and
    fresco-show always do."""

    set_doc = "Set whether printers show the values of tensors in a GPU's memory."
    show_doc = "Show whether printers show the values of tensors in a GPU's memory."

    def __init__(self):
        super().__init__("fresco-device-values", gdb.COMMAND_DATA, gdb.PARAM_BOOLEAN)
        self.value = False

    def get_set_string(self):
        return ""

    def get_show_string(self, value):
        return "Printers %s the values of tensors in a GPU's memory." % ("show" if self.value else "do not show")


def register():
    _Elements()
    _DeviceValues()


def elements():
    return gdb.parameter("fresco-elements")


def device_values():
    return gdb.parameter("fresco-device-values")
