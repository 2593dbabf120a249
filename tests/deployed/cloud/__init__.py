"""A cloud made from what is built: the CloudFormation template, the bundle, the published site and its `_redirects`.

It knows the routes of the template and of the site and no others, and is configured by nothing else. `Cloud` has the
whole of it; `scripts/cloud` starts one for a person.
"""
