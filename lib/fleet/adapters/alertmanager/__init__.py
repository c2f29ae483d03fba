"""Alertmanager: its members, silences and alerts."""
