"""`ferdistill serve`."""

import json
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from .. import workspace


def serve(
    bundle: Annotated[Path, typer.Option(help="Directory that the stage `export` wrote.")] = workspace.BUNDLE,
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port on 127.0.0.1; 0 takes a free one.")] = 8000,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON, then serve.")] = False,
) -> None:
    """Hand out a page that runs the bundle in the browser: camera or picture in, calibrated probabilities out.

    Listens on 127.0.0.1 alone. Images stay in the page. Stops on Ctrl-C. Examples:

        ferdistill serve --open

        ferdistill serve --bundle models/bundle --port 0 --json
    """
    from ..faces import server as library
    from ..runtime.classifier import Classifier

    Classifier(bundle, threads=1, device="cpu")  # a damaged bundle stops here; later the page says it
    server = library.listen(bundle, port)
    if as_json:
        print(json.dumps({"url": server.url, "bundle": str(bundle)}), flush=True)
    else:
        print(f"{server.url} shows {bundle}; Ctrl-C stops", flush=True)
    if open_page:
        webbrowser.open(server.url)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        if not as_json:
            print("stopped")
    finally:
        server.server_close()
