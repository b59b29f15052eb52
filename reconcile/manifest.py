"""What was frozen, written down for others: control files in the form of Audience Manager's own.

    {"Files": [{"FileName": "…", "FileSequenceNumber": 1, "FileByteSize": 28, "FileLineCount": 1, "md5": "…"}],
     "Totals": {"FileName": "…", "TotalByteSize": 28, "TotalNumberFiles": 1, "TotalNumberLines": 1}}

One for each time and set of DPIDs, `ftp_dpm_12345_1790000000.info`: sizes and MD5 are of the files as they lie on disk,
lines those of the text in them. Source: Audience Manager's documentation, "Transfer-control files for log file
transfers", which describes the files that come with outbound data.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from reconcile.files import FrozenFile

SUFFIX = ".info"


def control_files(files: Sequence[FrozenFile]) -> dict[str, bytes]:
    """The content of each control file by its name."""
    groups: dict[str, list[FrozenFile]] = defaultdict(list)
    for file in files:
        groups[file.name.partition(".")[0]].append(file)
    return {f"{root}{SUFFIX}": json.dumps(_told(group), indent=2).encode() for root, group in groups.items()}


def _told(files: Sequence[FrozenFile]) -> dict[str, Any]:
    entries = [
        {
            "FileName": file.name,
            "FileSequenceNumber": number,
            "FileByteSize": file.bytes,
            "FileLineCount": file.lines,
            "md5": file.md5,
        }
        for number, file in enumerate(files, start=1)
    ]
    stem, mode, *_ = files[0].name.split(".")
    totals = {
        "FileName": f"{stem}.{mode}",
        "TotalByteSize": sum(file.bytes for file in files),
        "TotalNumberFiles": len(files),
        "TotalNumberLines": sum(file.lines for file in files),
    }
    return {"Files": entries, "Totals": totals}
