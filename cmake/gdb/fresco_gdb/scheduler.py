"""The scheduler's queue: who waits, of which class and model, for how long."""

import time
from collections import Counter

import gdb

from fresco_gdb import absl, memory, printing

# Of those that wait, so many are shown by themselves.
_SHOWN = 10


def _class_name(priority):
    return printing.enumerator(priority)


def _counts(names):
    """ "3 interactive, 9 standard"."""
    return ", ".join("%d %s" % (count, name) for name, count in sorted(Counter(names).items()))


class JobPrinter(printing.Line):
    """The policy's Job: an image, without the index's names for its numbers."""

    def line(self):
        return _job_words(self.value, "tenant %d" % int(self.value["spec"]["tenant"]), "group %d" % int(self.value["spec"]["group"]))


def _job_words(job, tenant, model):
    spec = job["spec"]
    state = printing.enumerator(job["state"])
    if state != "waiting":
        state += " on device %d%s" % (int(job["device"]), ", paused" if bool(job["paused"]) else "")
    words = ["%s %s" % (_class_name(spec["priority"]), state), model, tenant]
    words.append("%d of %d steps left" % (int(job["steps_left"]), int(spec["steps"])))
    words.append("received %s" % absl.time_text(absl.time_of(spec["received"])))
    words += [flag for flag in ("late", "aged") if bool(job[flag])]
    return "job %d: %s" % (int(job["id"]), ", ".join(words))


class QueueIndexPrinter(printing.Printer):
    """Counts, then those that wait, the first that came first."""

    def line(self):
        jobs = self._jobs()
        states = Counter(printing.enumerator(job["state"]) for job in jobs)
        waiting = [job for job in jobs if printing.enumerator(job["state"]) == "waiting"]
        words = "%d wait" % len(waiting)
        if waiting:
            words += " (%s; by model: %s)" % (
                _counts(_class_name(job["spec"]["priority"]) for job in waiting), _counts(map(self._model_of, waiting)))
        return "%s, %d on devices, %d moving" % (words, states["resident"], states["moving"])

    def members(self):
        waiting = [job for job in self._jobs() if printing.enumerator(job["state"]) == "waiting"]
        waiting.sort(key=lambda job: (int(job["spec"]["sequence"]), int(job["spec"]["image_index"])))
        for place, job in enumerate(waiting[:_SHOWN]):
            yield "waiting[%d]" % place, _job_words(job, self._tenant_words(job), "model " + self._model_of(job))
        if len(waiting) > _SHOWN:
            yield "waiting", "and %d more" % (len(waiting) - _SHOWN)
        yield from printing.fields_of(self.value)

    def _jobs(self):
        pointers = printing.pairs_of(self.value["jobs_"])
        return [printing.target_of(pointer) for _, pointer in pointers]

    def _model_of(self, job):
        groups = self.value["groups_"]
        group = printing.target_of(_at(groups, int(job["spec"]["group"])))
        return printing.text_of(_at(self.value["models_"], int(group["group"]["model"]))["name"])

    def _tenant_words(self, job):
        name = printing.text_of(_at(self.value["shares_"]["tenants_"], int(job["spec"]["tenant"]))["name"])
        return "tenant %s" % (name or "(none)")


def _at(vector, index):
    return (vector["_M_impl"]["_M_start"] + index).dereference()


class RequestStatePrinter(printing.Printer):
    def line(self):
        return _request_words(self.value)


def _request_words(state, now=None):
    """`now`: seconds since 1970, for its age; None: not known."""
    request = state["request_"]
    words = ["request %s" % printing.text_of(request["id"]), "model %s" % printing.text_of(request["model"])]
    tenant = printing.text_of(request["tenant"])
    if tenant:
        words.append("tenant %s" % tenant)
    words.append(_class_name(request["priority"]))
    words.append("%d of %d images done" % (int(state["images_done_"]), len(printing.elements_of(request["images"]))))
    received = absl.time_of(state["received_"])
    if now is None:
        words.append("received %s" % absl.time_text(received))
    else:
        words.append("came %s ago" % absl.duration_text(now - received))
    reason = absl.status_text(state["reason_"])
    return ", ".join(words + ([] if reason == "OK" else ["ending: " + reason]))


def _now_of(clock):
    """What a Clock says, in seconds since 1970; None where that is not to be known: of a core file, or another clock."""
    clock = clock.dereference()
    try:
        clock = clock.cast(clock.dynamic_type)
    except gdb.error:
        return None
    names = {field.name for field in clock.type.fields()}
    if "now_" in names:  # a test's, which stands still
        return absl.time_of(clock["now_"])
    if "wall_at_start_" in names and memory.is_live():
        return absl.time_of(clock["wall_at_start_"]) + time.monotonic() - int(clock["start_"]["__d"]["__r"]) / 1e9
    return None


class ActiveImagePrinter(printing.Printer):
    def line(self):
        request = printing.target_of(self.value["request"])
        name = printing.text_of(request["request_"]["id"]) if request is not None else "(let go of)"
        return "image %d of request %s, job %d" % (int(self.value["index"]), name, int(self.value["id"]))

    def members(self):
        job = printing.target_of(self.value["job"])
        if job is not None:
            yield "*job", job
        yield from printing.fields_of(self.value)


class DispatcherPrinter(printing.Printer):
    """Requests of which some images wait, in the order in which they came, with their ages where the clock can be read.
    Those of a process are as old as they are while one looks: its clock goes on."""

    def line(self):
        return "%d requests wait, %d run, %d devices%s%s" % (
            int(self.value["waiting_"]), int(self.value["running_"]), len(printing.elements_of(self.value["workers_"])),
            ", draining" if bool(self.value["draining_"]) else "", ", stopping" if bool(self.value["stopping_"]) else "")

    def members(self):
        entries = printing.pairs_of(self.value["queue_"])
        now = _now_of(self.value["clock_"])
        for place, (_, entry) in enumerate(entries[:_SHOWN]):
            request = printing.target_of(entry["request"])
            words = "%d images wait, place told %d" % (len(printing.elements_of(entry["images"])), int(entry["position"]))
            yield "queue[%d]" % place, "%s; %s" % (_request_words(request, now), words)
        if len(entries) > _SHOWN:
            yield "queue", "and %d more" % (len(entries) - _SHOWN)
        core = printing.target_of(self.value["core_"])
        if core is not None:
            yield "index", core["index_"]
        yield from printing.fields_of(self.value)


PRINTERS = {
    "^fresco::Job$": JobPrinter,
    "^fresco::QueueIndex$": QueueIndexPrinter,
    "^fresco::(RequestState)$": RequestStatePrinter,
    "^fresco::ActiveImage$": ActiveImagePrinter,
    "^fresco::Dispatcher$": DispatcherPrinter,
}
