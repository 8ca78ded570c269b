//! The first bytes of a caller's TLS connection, by which a relay finds the device.

/// A ClientHello that asks for `name`, as small as can be.
pub(super) fn client_hello(name: &str) -> Vec<u8> {
    fn block(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
    }
    let host = [&[0][..], &block(name.as_bytes())].concat();
    let server_name = [&[0, 0][..], &block(&block(&host))].concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &block(&[0x13, 0x01]),
        &[1, 0],
        &block(&server_name),
    ]
    .concat();
    let message = [&[1, 0][..], &block(&body)].concat();
    [&[0x16, 3, 1][..], &block(&message)].concat()
}
