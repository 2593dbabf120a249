"""The entries of the deployed functions: each names what of `tidewire` it runs."""
