"""For the site: links of the pages to files outside docs/ lead to the repository; on GitHub they work as they are."""

import posixpath
import re
from typing import Any

REPOSITORY = "https://github.com/talkinghead/talkinghead"
OUTSIDE = re.compile(r"(!?)\]\((\.\./[^)#\s]*)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """`](../conf/loss)` becomes the address of that file; pictures become that of their bytes."""
    here = posixpath.dirname(page.file.src_uri)

    def absolute(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", here, match[2]))
        kind = "raw" if path.endswith((".jpg", ".png", ".webp", ".gif")) else "blob"
        return f"{match[1]}]({REPOSITORY}/{kind}/main/{path}"

    return OUTSIDE.sub(absolute, markdown)
