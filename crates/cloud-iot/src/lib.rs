//! An MQTT v5 session that stays up: connection, outbox, subscriptions, routing
