// What to do about each error, in a sentence. Codes are the contract; messages come from the daemon.

const REMEDIES = {
  OFFLINE:
    "Check that this device is on the same network as the Pi, that the Pi has power, and that the daemon runs. The page goes on by itself.",
  TIMEOUT: "The daemon did not answer in time. Try again; if it happens often, look at System for load and memory.",
  BAD_ANSWER: "Something between this page and the daemon answered in its place. Reload the page.",
  CANCELLED: "Nothing was changed.",
  VALIDATION_FAILED: "Correct the fields that are named, then send again.",
  INVALID_REQUEST: "Reload the page: it and the daemon may be of different versions.",
  UNAUTHORIZED: "Enter an API key. The first one is in the file admin.key in the daemon's state folder.",
  FORBIDDEN: "Use a key of a wider scope, or open the page under the Pi's address or a name in http.trusted_hosts.",
  DEVICE_NOT_IN_ALLOWLIST: "Add the camera to the allowlist first.",
  NOT_FOUND: "It may have been removed meanwhile. Go back to the list.",
  CAMERA_NOT_FOUND: "It was removed or has a new id. Go back to the list of cameras.",
  CONTAINER_NOT_FOUND: "It was deleted meanwhile. Choose another container.",
  SESSION_NOT_FOUND: "It was discarded. Start a new session.",
  DEVICE_NOT_FOUND: "It has not been seen lately. Start a scan.",
  CONFLICT: "Somebody else has changed it meanwhile. Reload and look before you repeat.",
  SESSION_ALREADY_ACTIVE: "Close the session that is open, or go on with it.",
  SESSION_ALREADY_CLOSED: "Start a new session.",
  SESSION_NOT_RECOVERABLE: "Discard it and start a new session.",
  SESSION_EXPIRED: "Start a new session.",
  DEVICE_ALREADY_PROVISIONING: "Wait until the camera's present attempt has ended.",
  DEVICE_INVALID_STATE: "Look at the camera's state: this step does not follow from it.",
  MAX_RETRIES_EXCEEDED: "Take the camera off power for ten seconds, then start a new session for it.",
  CONTAINER_HAS_CAMERAS: "Take the cameras out of the container first.",
  POSITION_OCCUPIED: "Choose a free position, or take out the camera that is there.",
  CAMERA_ALREADY_ASSIGNED: "Take the camera out of its present container first.",
  INVALID_POSITION: "Positions are 1 to 4.",
  ONBOARD_ENABLE_FAILED: 'Set auto_onboard.mode to "dev" in the configuration; it is meant for development only.',
  ONBOARD_RATE_LIMITED: "Wait: the camera is taken as soon as a token is free.",
  RATE_LIMITED: "Wait a moment, then try again.",
  DEVICE_UNREACHABLE: "Check the camera's power and its distance to the Pi, then try again.",
  DEVICE_REJECTED: "The camera refused. Check its firmware and its credentials.",
  DEVICE_TIMEOUT: "Check the camera's signal, then try again.",
  VERIFICATION_TIMEOUT: "Check that the target network is in reach of the camera and its password right.",
  CIRCUIT_OPEN:
    "Camera after camera failed, so the daemon pauses. Find the cause first: network name, password, signal.",
  NETWORK_ERROR: "Mend what is named, then try again; pi-orchestrator doctor on the Pi says how.",
  MQTT_UNAVAILABLE: "Check the broker: systemctl status mosquitto on the Pi. Cameras are still asked by HTTP.",
  CAMERA_OFFLINE: "Check the camera's power and WiFi. It is shown here as soon as it is back.",
  CAPTURE_TIMEOUT: "Try again. If it stays silent, reboot it; after that, take it off power for ten seconds.",
  CAPTURE_FAILED: "Try again. If it fails each time, reboot the camera.",
  REBOOT_FAILED: "Take the camera off power for ten seconds.",
  DATABASE_ERROR: "Check the free space under System; the daemon's log says more.",
  INTERNAL_ERROR: "Try again. If it happens again, download the diagnostics bundle under System and report it.",
};

/** What to do about an error code. */
export const remedyFor = (code, status) =>
  REMEDIES[code] ?? (status >= 500 ? REMEDIES.INTERNAL_ERROR : "Look at the details, then try again.");
