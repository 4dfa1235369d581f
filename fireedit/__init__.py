"""FireEdit on Ray: the one door to the rooms platform, models, jobs and serve.

The rooms lie at the checkout's root. `platform` is also a module of Python's standard library, so none of them is ever
imported by its bare name: write `fireedit.platform`. In a checkout the door opens onto the folders beside it; in an
installed wheel they already lie inside this package.
"""

import pathlib as _pathlib

_root = _pathlib.Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "platform").is_dir():
    __path__.append(str(_root))
