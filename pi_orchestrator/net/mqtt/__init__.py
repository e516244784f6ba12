"""MQTT client, and the embedded broker."""
