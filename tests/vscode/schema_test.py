""".vscode's files against schemas (schemas/), and against each other: a name that is nowhere is not reported by VS Code before somebody needs it."""

import copy
import json
import pathlib
import re
import subprocess
import unittest

import jsonschema

import workspace

SCHEMAS = pathlib.Path(__file__).resolve().parent / "schemas"
FILES = ("launch", "tasks", "settings", "extensions")
KNOWN_VARIABLES = r"workspaceFolder|file|command:pickProcess|input:\w+"  # of VS Code's, those that the tests can stand in for


def validator(name):
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def complaints(document, schema):
    """One line for each fault, with its place."""
    return [f"{error.json_path}: {jsonschema.exceptions.best_match([error]).message}" for error in schema.iter_errors(document)]


def objects(value):
    """All objects in a document, of any depth."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(item)


class SchemaTest(unittest.TestCase):
    def test_the_files_are_valid(self):
        for name in FILES:
            with self.subTest(name):
                self.assertEqual(complaints(workspace.load(f".vscode/{name}.json"), validator(name)), [])

    def test_there_are_no_others(self):
        """Each file of the folder is one that is checked, here or by being read in launch_test."""
        found = {path.name for path in (workspace.ROOT / ".vscode").iterdir()}
        self.assertEqual(found, {f"{name}.json" for name in FILES} | {"gdbinit", "server.yaml"})

    def test_misspelt_names_are_found(self):
        """Every key of every object, spelt wrong in turn."""
        for name in FILES:
            document, schema = workspace.load(f".vscode/{name}.json"), validator(name)
            free = {"search.exclude", "files.watcherExclude", "files.associations"}  # the keys in these are patterns
            for place, found in enumerate(objects(document)):
                for key in found:
                    wrong = copy.deepcopy(document)
                    target = list(objects(wrong))[place]
                    target[key + "x"] = target.pop(key)
                    if not any(set(found) == set(document.get(setting, ())) for setting in free):
                        self.assertNotEqual(complaints(wrong, schema), [], f"{name}: {key} in {found}")

    def test_comments_are_read_and_trailing_commas_are_not(self):
        self.assertIn("//", (workspace.ROOT / ".vscode" / "launch.json").read_text(encoding="utf-8"))
        for text in ('{"a": 1,}', '{"a": 1 /* open }', '{"a": 1, "a": 2}'):
            with self.subTest(text), self.assertRaises(ValueError):
                path = pathlib.Path(self.enterContext(workspace.workspace())) / "wrong.json"
                path.write_text(text, encoding="utf-8")
                workspace.load(path)


class NamesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.launch, cls.tasks = workspace.load(".vscode/launch.json"), workspace.load(".vscode/tasks.json")

    def test_names_are_unique(self):
        for names in ([item["name"] for item in self.launch["configurations"] + self.launch["compounds"]],
                      [task["label"] for task in self.tasks["tasks"]],
                      [item["id"] for item in self.launch["inputs"]], [item["id"] for item in self.tasks["inputs"]]):
            self.assertEqual(sorted(set(names)), sorted(names))

    def test_what_is_named_is_there(self):
        labels = {task["label"] for task in self.tasks["tasks"]}
        names = {item["name"] for item in self.launch["configurations"]}
        for item in self.launch["configurations"]:
            if item["request"] == "launch":
                self.assertIn(item["preLaunchTask"], labels)
        for item in self.launch["compounds"]:
            self.assertLessEqual(set(item["configurations"]), names)

    def test_inputs_and_variables(self):
        """Each that is used is there, each that is there is used, and a choice begins at one of its options."""
        for document in (self.launch, self.tasks):
            text = json.dumps(document)
            for variable in re.findall(r"\$\{([^}]*)\}", text):
                self.assertRegex(variable, rf"^({KNOWN_VARIABLES})$")
            self.assertEqual(set(re.findall(r"\$\{input:(\w+)\}", text)), {item["id"] for item in document["inputs"]})
            for item in document["inputs"]:
                if item["type"] == "pickString":
                    self.assertIn(item["default"], item["options"])

    def test_gpus_are_chosen_where_a_device_is(self):
        """By the program's own arguments, or by the server, which takes all that it sees."""
        for item in self.launch["configurations"]:
            if item["request"] == "launch" and ("${input:device}" in item["args"] or item["program"].endswith("fresco-server")):
                self.assertIn({"name": "CUDA_VISIBLE_DEVICES", "value": "${input:gpus}"}, item["environment"], item["name"])

    def test_precisions_are_fresco_models(self):
        text = subprocess.run([workspace.BIN / "fresco-model", "draw", "--help"], check=True, timeout=60, stdout=subprocess.PIPE, text=True).stdout
        known = re.search(r"--precision TYPE[^\n]*\s+(fp32,[^:]*):", text)[1]
        [options] = [item["options"] for item in self.launch["inputs"] if item["id"] == "precision"]
        self.assertEqual(set(options), set(re.split(r",\s+(?:or\s+)?", known)))

    def test_the_documentation_names_what_is_there(self):
        names = {item["name"] for item in self.launch["configurations"] + self.launch["compounds"]}
        text = (workspace.ROOT / "docs" / "DEBUGGING.md").read_text(encoding="utf-8")
        named = {name for line in text.splitlines() if "F5" in line for name in re.findall(r"\*((?:Model|Server|Client|Test): [^*]+)\*", line)}
        self.assertTrue(named)
        self.assertLessEqual(named, names)

    def test_tasks_go_through_dev(self):
        """Each command of ./dev that a task runs is one that ./dev help shows."""
        usage = subprocess.run([workspace.ROOT / "dev", "help"], check=True, timeout=60, stdout=subprocess.PIPE, text=True).stdout
        for task in self.tasks["tasks"]:
            commands = re.findall(r"\./dev (\w+)", task["command"])
            self.assertEqual(len(commands), 1, task["label"])
            self.assertRegex(usage, rf"(?m)^\./dev {commands[0]}\b")

    def test_the_extensions_that_the_files_need_are_recommended(self):
        recommended = set(workspace.load(".vscode/extensions.json")["recommendations"])
        owners = {"cppdbg": "ms-vscode.cpptools", "clangd": "llvm-vs-code-extensions.vscode-clangd", "cmake": "ms-vscode.cmake-tools",
                  "C_Cpp": "ms-vscode.cpptools", "python": "ms-python.python"}
        used = {item["type"] for item in self.launch["configurations"]}
        used |= {name.partition(".")[0] for name in workspace.load(".vscode/settings.json")} - {"editor", "files", "search"}
        self.assertLessEqual({owners[name] for name in used}, recommended)
        container = workspace.load(".devcontainer/devcontainer.json")["customizations"]["vscode"]["extensions"]
        self.assertLessEqual(set(container), recommended)


if __name__ == "__main__":
    unittest.main()
