"""A folder as SimpleTuner has it, and what importing it gives."""

import json

from simpletune.config.simpletuner import import_files

PICTURES = {"id": "pics", "type": "local", "instance_data_dir": "pictures", "cache_dir_vae": "cache/vae"}
TOKEN = "hf_" + "a" * 30


class There:
    """A folder as SimpleTuner has it: config/ with both files, and a folder of pictures."""

    def __init__(self, root):
        self.root = root
        (root / "config").mkdir(exist_ok=True)
        (root / "pictures").mkdir(exist_ok=True)
        (root / "pictures" / "one.png").write_bytes(b"")

    def write(self, name, content):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    def imported(self, config=None, data=(PICTURES,), output="ours", **options):
        """Import; the result with our config, our data sets and the lines by key at hand."""
        if config is not None:
            config = config if isinstance(config, str) else json.dumps({"model_family": "sd3", **config})
            self.write("config/config.json", config)
        if data is not None:
            self.write("config/multidatabackend.json", data if isinstance(data, str) else list(data))
        return Result(import_files([self.root], self.root / output, **options), self.root / output)


class Result:
    def __init__(self, result, folder):
        self.all, self.folder = result, folder
        self.config = json.loads(result.contents[folder / "config.json"])
        self.sets = json.loads(result.contents[folder / "multidatabackend.json"])
        self.errors = [problem for problem in result.problems if problem.severity == "error"]

    def line(self, key, where=""):
        found = [one for one in self.all.lines if one.key.lstrip("-") == key and where in one.where]
        assert len(found) == 1, (key, found)
        return found[0]


def messages(error):
    return "\n".join(f"{one.file}:{one.line}:{one.column} {one.message} {one.hint}" for one in error.value.problems)
