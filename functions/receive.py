"""EventBridge → log, on AWS Lambda."""

from tidewire.http.eventbridge_receiver import BusFunction

handler = BusFunction()
