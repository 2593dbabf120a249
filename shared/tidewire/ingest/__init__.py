"""What other services send, as events: webhooks, rules for payloads, EventBridge, dead letters."""
