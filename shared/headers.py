"""What every answer tells a browser, whatever it is an answer to (OWASP REST Security Cheat Sheet, "Security headers").

What only the front can promise, that all is encrypted (Strict-Transport-Security), is the front's to say.
"""

SECURITY = {
    "x-content-type-options": "nosniff",  # JSON is no script, however it is asked for
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",  # nothing of ours is a page
    "referrer-policy": "no-referrer",  # a URL may hold a ticket
    "cross-origin-resource-policy": "same-origin",  # an allowed origin asks with CORS, and is not held up by this
}
