"""Signed rewrites: the proof that a request came through the site on Netlify and not past it.

A rewrite with `signed` adds `x-nf-sign`, an HS256 JWT with the claims `iss` (netlify), `exp` (5 minutes on),
`deploy_context`, `netlify_id` and `site_url` (Netlify Docs, "Signed proxy redirects"). It covers neither path nor body:
it says where a request came from, not what it may do.
"""

HEADER = "x-nf-sign"
LEEWAY = 30.0  # seconds between Netlify's clock and ours


def is_signed(signature: str | None, secret: str) -> bool:
    """Tell whether `signature`, the header's text, was made with `secret` and still holds."""
    if not signature:
        return False
    import jwt  # 80 ms of a cold start, where this is configured

    try:
        jwt.decode(
            signature,
            secret,
            algorithms=["HS256"],
            issuer="netlify",
            leeway=LEEWAY,
            options={"require": ["exp", "iss"]},
        )
    except (jwt.PyJWTError, ValueError):
        return False
    return True
