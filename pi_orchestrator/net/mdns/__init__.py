"""mDNS: browses for cameras and advertises the daemon."""
