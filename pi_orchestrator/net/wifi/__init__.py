"""WiFi: stations of the access point, WiFi client, network scan, SSID."""
