"""Commands where least can be taken for granted: no UTF-8, and no home folder to write to."""

import os
import subprocess
import sys

COMMANDS = """
import sys
from pipeline.__main__ import main
print([main(words.split()) for words in sys.argv[1:]])
"""


def test_commands_take_names_with_signs_that_the_locale_does_not_have_and_say_what_they_cannot_take(checkout):
    for name in ("rain.csv", "gr\u00f6\u00dfe.csv"):
        rows = "\n".join(f"{5 + i / 50},{45 + i % 7},{i}.5" for i in range(30))
        (checkout / name).write_text(f"lon,lat,Gr\u00fcn [\u00b5g]\n{rows}\n", encoding="utf-8")
    commands = "new rain --from rain.csv", "check rain", "new size --from gr\u00f6\u00dfe.csv"
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, *commands],
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "HOME": "/proc/nowhere"},
        capture_output=True, text=True, encoding="ascii", timeout=200, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[0, 0, 2]", done.stderr
    assert r"Column Gr\xfcn [\xb5g], the value: 0.5 to 29.5" in done.stdout
    assert 'value: "Gr\\u00fcn [\\u00b5g]"' in (checkout / "config/rain.yaml").read_text(encoding="utf-8")
    (line,) = done.stderr.splitlines()
    assert line.endswith("which is ascii here; rename the file, or set PYTHONUTF8=1")
