"""What JSON files say, whatever their letters."""

import json


def mean_the_same(first: bytes, second: bytes) -> bool:
    """Return whether two files hold equal JSON: other blanks, an E for an e, or a last digit that no float keeps."""
    try:
        return bool(json.loads(first) == json.loads(second))
    except ValueError:  # of JSON as of UTF-8
        return False
