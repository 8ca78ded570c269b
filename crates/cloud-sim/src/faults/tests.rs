//! How faults are parsed, wait and run out.

use super::*;

#[test]
fn the_json_of_a_fault() {
    let parse = |text| serde_json::from_str::<Fault>(text);
    assert_eq!(
        parse(r#"{"fault":"drop_mqtt"}"#).unwrap(),
        Fault::DropMqtt { sn: None }
    );
    assert_eq!(
        parse(r#"{"fault":"withhold","packet":"suback"}"#).unwrap(),
        Fault::Withhold {
            packet: AckPacket::Suback,
            times: 1
        }
    );
    assert_eq!(
        parse(r#"{"fault":"api","answer":{"status":{"code":500}},"times":2}"#).unwrap(),
        Fault::Api {
            answer: ApiAnswer::Status {
                code: 500,
                retry_after: None
            },
            times: 2
        }
    );
    assert_eq!(
        parse(r#"{"fault":"api","answer":"html"}"#).unwrap(),
        Fault::Api {
            answer: ApiAnswer::Html,
            times: 1
        }
    );
    assert!(parse(r#"{"fault":"drop_mqtt","serial":"x"}"#).is_err());
    assert!(parse(r#"{"fault":"explode"}"#).is_err());
}

#[test]
fn faults_wait_in_order_and_run_out() {
    let board = FaultInjector::new();
    board.add_token(TokenAnswer::Hold, 2);
    board.add_token(TokenAnswer::Expired, 1);
    let taken: Vec<_> = std::iter::from_fn(|| board.next_token()).collect();
    assert_eq!(
        taken,
        [TokenAnswer::Hold, TokenAnswer::Hold, TokenAnswer::Expired]
    );
}

#[test]
fn zero_times_lasts_until_cleared() {
    let board = FaultInjector::new();
    board.add_api(ApiAnswer::Html, 0);
    board.withhold(AckPacket::Puback, 0);
    for _ in 0..1000 {
        assert_eq!(board.next_api(), Some(ApiAnswer::Html));
        assert!(board.take_withheld(AckPacket::Puback));
    }
    board.clear();
    assert_eq!(board.next_api(), None);
    assert!(!board.take_withheld(AckPacket::Puback));
}

#[test]
fn the_board_is_bounded() {
    let board = FaultInjector::new();
    let accepted = (0..1000)
        .filter(|_| board.add_api(ApiAnswer::Html, 1))
        .count();
    assert_eq!(accepted, MAX_WAITING);
}

#[tokio::test(start_paused = true)]
async fn refusing_ends_by_itself() {
    let board = FaultInjector::new();
    board.refuse_for(Duration::from_secs(5));
    assert!(board.is_refusing());
    tokio::time::advance(Duration::from_secs(6)).await;
    assert!(!board.is_refusing());
}
