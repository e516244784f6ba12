"""Legacy: routes of old dashboards."""
