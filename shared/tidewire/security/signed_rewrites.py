"""Signed rewrites: proof that a request passed through the site on Netlify and did not go around it.

A rewrite with `signed` adds `x-nf-sign`, an HS256 JWT with the claims `iss` (netlify), `exp` (in 5 minutes),
`deploy_context`, `netlify_id` and `site_url` (Netlify Docs, "Signed proxy redirects"). The signature covers neither
path nor body: it proves the origin of a request and authorizes nothing.
"""

HEADER = "x-nf-sign"
LEEWAY = 30.0  # seconds that the clocks of Netlify and of this server may differ


def is_signed(signature: str | None, secret: str) -> bool:
    """Return whether `signature`, the value of the header, was made with `secret` and has not expired."""
    if not signature:
        return False
    import jwt  # 80 ms of a cold start, paid only by deployments with this secret

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
