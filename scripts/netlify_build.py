"""Builds `build/site`, which Netlify publishes: the site, and the redirect rules to the functions.

netlify.toml supports neither variables nor deploy contexts in rules, and the `_redirects` file overrides it: so
netlify.toml has the rule for `netlify dev`, and this script writes the rules of a deployment. They are not in `site/`,
because `netlify dev` would use them and send requests to production. Environment variables:

    TIDEWIRE_API_URL           the address of the functions: https://….execute-api.….amazonaws.com (production)
    TIDEWIRE_PREVIEW_API_URL   the same for deploy previews and branch deploys; {stage} becomes pr-7 or the branch
    REALTIME_NETLIFY_SECRET    if set, signs the rewrites, and the functions can require the signature
    CONTEXT, REVIEW_ID, BRANCH set by Netlify (Netlify Docs, "Build environment variables")

A preview never uses production's functions: its events would be in production's log.
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
MAX_STAGE = 32  # characters: it is part of every key in the store, and of names on AWS


class BuildError(Exception):
    """The site cannot be deployed; the text names the variable and the fix."""


def main(environ: Mapping[str, str], folder: Path) -> None:
    """Rebuild `folder`. Raises BuildError, and then leaves it unchanged."""
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
            raise BuildError("TIDEWIRE_API_URL: is not set: set it to the address of the deployed functions")
        return _rule(url, environ)
    url = _url(environ, "TIDEWIRE_PREVIEW_API_URL")
    if url is None:
        return (
            f"# {context}: TIDEWIRE_PREVIEW_API_URL is not set, and production's log is not for previews\n"
            f"/api/* /{NO_FUNCTIONS} 404!\n"
        )
    if url == _url(environ, "TIDEWIRE_API_URL"):
        raise BuildError("TIDEWIRE_PREVIEW_API_URL: is production's address: a preview would append to its log")
    return _rule(url.replace("{stage}", stage(environ)), environ)


def stage(environ: Mapping[str, str]) -> str:
    """Return the stage of this preview's functions: from its pull request, or from its branch."""
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
