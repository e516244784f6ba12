// A remedy for each error code, in one or two sentences. The daemon sends code and message.

const REMEDIES = {
  OFFLINE:
    "Check that this device is on the same network as the Pi, that the Pi has power, and that the daemon is running. The page reconnects automatically.",
  TIMEOUT: "Try again. If it happens often, check load and memory under System.",
  BAD_ANSWER: "A proxy or another program answered instead of the daemon. Reload the page.",
  CANCELLED: "No change was made.",
  VALIDATION_FAILED: "Correct the fields named in the message, then send again.",
  INVALID_REQUEST: "Reload the page. The page and the daemon may have different versions.",
  UNAUTHORIZED: "Enter an API key. The first key is in the file admin.key in the daemon's state folder.",
  FORBIDDEN: "Use a key with a wider scope, or open the page at the Pi's address or at a name in http.trusted_hosts.",
  DEVICE_NOT_IN_ALLOWLIST: "Add the camera to the allowlist first.",
  NOT_FOUND: "It may have been removed. Go back to the list.",
  CAMERA_NOT_FOUND: "The camera was removed or has a new ID. Go back to the list of cameras.",
  CONTAINER_NOT_FOUND: "The container was deleted. Choose another container.",
  SESSION_NOT_FOUND: "The session was discarded. Start a new session.",
  DEVICE_NOT_FOUND: "The device has not been seen recently. Start a scan under Discovery.",
  CONFLICT: "Another client changed it at the same time. Reload the page and check before you try again.",
  SESSION_ALREADY_ACTIVE: "Continue the open session, or close it first.",
  SESSION_ALREADY_CLOSED: "Start a new session.",
  SESSION_NOT_RECOVERABLE: "Discard the session and start a new session.",
  SESSION_EXPIRED: "Start a new session.",
  DEVICE_ALREADY_PROVISIONING: "Wait until the current attempt for this camera has ended.",
  DEVICE_INVALID_STATE: "This step is not possible in the camera's present state. Check its state.",
  MAX_RETRIES_EXCEEDED: "Disconnect the camera from power for 10 seconds, then start a new session for it.",
  CONTAINER_HAS_CAMERAS: "Remove the cameras from the container first.",
  POSITION_OCCUPIED: "Choose a free position, or remove the camera from this position first.",
  CAMERA_ALREADY_ASSIGNED: "Remove the camera from its current container first.",
  INVALID_POSITION: "Choose a position from 1 to 4.",
  ONBOARD_ENABLE_FAILED: 'Set auto_onboard.mode to "dev" in the configuration. Use it for development only.',
  ONBOARD_RATE_LIMITED: "Wait. The camera is onboarded when the rate limit allows it.",
  RATE_LIMITED: "Wait a moment, then try again.",
  DEVICE_UNREACHABLE: "Check the camera's power and its distance to the Pi, then try again.",
  DEVICE_REJECTED: "The camera refused. Check its firmware and its credentials.",
  DEVICE_TIMEOUT: "Check the camera's signal, then try again.",
  VERIFICATION_TIMEOUT: "Check that the camera is in range of the target network and that the password is correct.",
  CIRCUIT_OPEN:
    "After 5 failures in a row, provisioning is suspended; it continues automatically after 30 seconds to 4 minutes. Check network name, password and signal, then retry the failed cameras.",
  NETWORK_ERROR: "Fix the cause named in the message, then try again. For help, run pi-orchestrator doctor on the Pi.",
  MQTT_UNAVAILABLE: "Check the MQTT broker on the Pi: systemctl status mosquitto. Cameras are still reached by HTTP.",
  CAMERA_OFFLINE: "Check the camera's power and WiFi. It is shown as online when it responds again.",
  CAPTURE_TIMEOUT: "Try again. If it still times out, reboot the camera. If that does not help, disconnect it from power for 10 seconds.",
  CAPTURE_FAILED: "Try again. If it keeps failing, reboot the camera.",
  REBOOT_FAILED: "Disconnect the camera from power for 10 seconds.",
  DATABASE_ERROR: "Check the free disk space under System. See Logs for details.",
  INTERNAL_ERROR: "Try again. If it happens again, download the diagnostics bundle under System and report it.",
};

/** The remedy for an error code. */
export const remedyFor = (code, status) =>
  REMEDIES[code] ?? (status >= 500 ? REMEDIES.INTERNAL_ERROR : "Check the details, then try again.");
