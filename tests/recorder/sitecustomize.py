"""Put on PYTHONPATH, it lets every stage say which modules of ferdistill it loaded and which params it read.

Each process that runs `src/stage.py` writes one JSON file into the folder that FERDISTILL_RECORD names, when it ends.
"""

import atexit
import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any


def watch(folder: Path) -> None:
    """Note each param that is read once `params.load` is done."""
    import ferdistill.params as library

    paths: dict[int, str] = {}
    kept = []  # an id must not be given away
    read: set[str] = set()

    def place(value: Any, path: str) -> None:
        if isinstance(value, library.StrictModel):
            paths[id(value)] = path
            kept.append(value)
            for name, field in type(value).model_fields.items():
                place(getattr(value, name), ".".join(filter(None, [path, field.alias or name])))
        elif isinstance(value, dict):
            for key, inner in value.items():
                place(inner, f"{path}.{key}")
        elif isinstance(value, list):
            for inner in value:
                place(inner, path)

    def leaves(value: Any, path: str) -> None:
        read.add(path)
        if isinstance(value, library.StrictModel):
            for name, field in type(value).model_fields.items():
                leaves(value.__dict__[name], ".".join(filter(None, [path, field.alias or name])))

    load, plain, dump = library.load, library.StrictModel.__getattribute__, library.StrictModel.model_dump

    def getattribute(self: Any, name: str) -> Any:
        value = plain(self, name)
        path = paths.get(id(self))
        field = type(self).model_fields.get(name) if path is not None else None
        if field is not None and not isinstance(value, library.StrictModel | dict):
            read.add(".".join(filter(None, [path, field.alias or name])))
        return value

    def model_dump(self: Any, **keywords: Any) -> Any:
        path = paths.get(id(self))
        if path is not None:
            for name, field in type(self).model_fields.items():
                included = keywords.get("include") is None or name in keywords["include"]
                if included and name not in (keywords.get("exclude") or ()):
                    leaves(self.__dict__[name], ".".join(filter(None, [path, field.alias or name])))
        return dump(self, **keywords)

    def loaded(*arguments: Any, **keywords: Any) -> Any:
        params = load(*arguments, **keywords)
        place(params, "")
        library.StrictModel.__getattribute__ = getattribute
        library.StrictModel.model_dump = model_dump
        return params

    library.load = loaded

    def write() -> None:
        root = Path(library.__file__).parents[1]
        modules = {
            Path(module.__file__).relative_to(root).as_posix()
            for name, module in list(sys.modules.items())
            if name.split(".")[0] == "ferdistill" and getattr(module, "__file__", None)
        }
        stage, *of = sys.argv[1:]
        of = of or os.environ.get("DVC_STAGE", "").split("@")[1:]
        record = {"stage": stage, "of": of, "modules": sorted(modules), "read": sorted(read)}
        (folder / f"{uuid.uuid4().hex}.json").write_text(json.dumps(record))

    atexit.register(write)


if "FERDISTILL_RECORD" in os.environ and len(sys.orig_argv) > 1 and sys.orig_argv[1].endswith("stage.py"):
    sys.path.insert(0, str(Path(sys.orig_argv[1]).resolve().parent))
    watch(Path(os.environ["FERDISTILL_RECORD"]))
