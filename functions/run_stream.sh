#!/bin/sh
# The stream function's handler under the Lambda Web Adapter, which starts it and asks it on $PORT.
# The runtime's python3 finds the bundle in /var/task, beside this script.
cd "$(dirname "$0")/.." || exit 1
exec "${PYTHON:-python3}" -m functions.stream
