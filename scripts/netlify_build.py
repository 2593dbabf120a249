"""Makes `build/site`, what Netlify publishes: the site, and the rules that lead to the functions.

netlify.toml can name no variable and no deploy context, and the `_redirects` file wins over it: so netlify.toml holds
the rule for `netlify dev`, and this file what is deployed. They are not in `site/`, where `netlify dev` would find
them and lead to production. Reads

    TIDEWIRE_API_URL           where the functions are: https://….execute-api.….amazonaws.com (production)
    TIDEWIRE_PREVIEW_API_URL   the same for deploy previews and branch deploys; {stage} stands for pr-7 or the branch
    REALTIME_NETLIFY_SECRET    where set, the rewrites are signed with it, and the functions can insist on that
    CONTEXT, REVIEW_ID, BRANCH Netlify's own (Netlify Docs, "Build environment variables")

A preview never reaches production's functions: what is tried out there would be in production's log.
"""

import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parent.parent
SITE, PUBLISHED = ROOT / "site", ROOT / "build" / "site"
NO_FUNCTIONS = "no-functions.txt"
SIGNED = "REALTIME_NETLIFY_SECRET"
MAX_STAGE = 32  # characters: it becomes part of every key in the store, and of names on AWS


class BuildError(Exception):
    """The site must not be deployed like this; the text names the variable and what to do."""


def main(environ: Mapping[str, str], folder: Path) -> None:
    """Make `folder` anew; raises BuildError, and then leaves it as it was."""
    rules = redirects(environ)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(SITE, folder)
    (folder / "_redirects").write_text(rules)
    (folder / NO_FUNCTIONS).write_text("There are no functions behind this preview.\n")
    print(rules, end="")


def redirects(environ: Mapping[str, str]) -> str:
    """Return the rules for this deploy context."""
    context = environ.get("CONTEXT", "production")
    if context == "production":
        url = _url(environ, "TIDEWIRE_API_URL")
        if url is None:
            raise BuildError("TIDEWIRE_API_URL: is not set: name the address that the functions were deployed to")
        return _rule(url, environ)
    url = _url(environ, "TIDEWIRE_PREVIEW_API_URL")
    if url is None:
        return (
            f"# {context}: TIDEWIRE_PREVIEW_API_URL is not set, and production's log is not for previews\n"
            f"/api/* /{NO_FUNCTIONS} 404!\n"
        )
    if url == _url(environ, "TIDEWIRE_API_URL"):
        raise BuildError("TIDEWIRE_PREVIEW_API_URL: is production's address: a preview would write into its log")
    return _rule(url.replace("{stage}", stage(environ)), environ)


def stage(environ: Mapping[str, str]) -> str:
    """Return the name under which this preview's functions are deployed: its pull request's, or its branch's."""
    review = environ.get("REVIEW_ID", "")
    if environ.get("CONTEXT") == "deploy-preview" and review:
        return f"pr-{_slug(review)}"
    name = _slug(environ.get("BRANCH", ""))
    if not name:
        raise BuildError("BRANCH: is not set: the preview's functions have no name without it")
    return name


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:MAX_STAGE].strip("-")


def _rule(url: str, environ: Mapping[str, str]) -> str:
    signed = f" signed={SIGNED}" if environ.get(SIGNED) else ""
    return f"/api/* {url}/api/:splat 200!{signed}\n"


def _url(environ: Mapping[str, str], name: str) -> str | None:
    text = environ.get(name, "").strip().rstrip("/")
    if not text:
        return None
    parts = urlsplit(text.replace("{stage}", "stage"))
    if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment or re.search(r"\s", text):
        raise BuildError(f"{name}: must be an https:// address, without a query")
    return text


if __name__ == "__main__":
    try:
        main(os.environ, PUBLISHED)
    except BuildError as error:
        sys.exit(f"netlify_build: {error}")
