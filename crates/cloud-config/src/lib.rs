//! A Clesyde device's directory: configuration and credentials, validated and stored crash-safely
