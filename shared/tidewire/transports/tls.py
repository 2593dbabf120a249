"""Whom a client trusts."""

import ssl


def client_context(certificates: str | None = None, *, verify: bool = True) -> ssl.SSLContext:
    """Return a context that trusts the authorities in a file, by default those of the system.

    Those are the ones that SSL_CERT_FILE or SSL_CERT_DIR names, where one is set; where Python finds none (the builds
    from python.org on macOS), those of certifi.
    """
    if certificates is None:
        paths = ssl.get_default_verify_paths()
        if not (paths.cafile or paths.capath):
            import certifi

            certificates = certifi.where()
    context = ssl.create_default_context(cafile=certificates)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
