//! Remote access to a device's web application: tokens, tunnel, TLS on the device, certificate rotation
