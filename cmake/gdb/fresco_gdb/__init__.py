"""gdb's printers and commands for Fresco. README.md beside this folder says what they show and how they are loaded."""

import gdb
import gdb.printing

from fresco_gdb import absl, commands, engine, parameters, precision, printing, scheduler, tensor_printer

_NAME = "fresco"


def _printers():
    collection = gdb.printing.RegexpCollectionPrettyPrinter(_NAME)
    collection.add_printer("at::Tensor", "^at::Tensor(Base)?$", tensor_printer.TensorPrinter)
    collection.add_printer("c10::TensorImpl", "^c10::TensorImpl$", tensor_printer.TensorPrinter)
    for module in (absl, engine, precision, scheduler):
        for pattern, printer in module.PRINTERS.items():
            collection.add_printer(pattern, pattern, printer)
    return collection


def register():
    """For whatever gdb looks at from now on. More calls change nothing."""
    if any(getattr(printer, "name", "") == _NAME for printer in gdb.pretty_printers):
        return
    gdb.printing.register_pretty_printer(None, _printers())
    gdb.pretty_printers.append(printing.text_printer)
    parameters.register()
    commands.register()
