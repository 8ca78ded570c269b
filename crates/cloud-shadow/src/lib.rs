//! AWS IoT device shadows over any message bus
