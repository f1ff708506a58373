use serde::{Deserialize, Serialize};
use vesta_sdk::{Error, Method, Request, Response};

#[derive(Deserialize)]
struct Guest {
    name: String,
}

#[derive(Serialize)]
struct Greeting {
    message: String,
}

#[vesta_sdk::handler]
fn handle(req: Request) -> Result<Response, Error> {
    let name = match *req.method() {
        Method::POST => req.json::<Guest>()?.name,
        _ => req.query("name").unwrap_or("world".into()),
    };
    Response::json(&Greeting { message: format!("Hello, {name}!") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_greeted() {
        let req = Request::for_test(Method::POST, "/", &[], r#"{"name":"Ada"}"#);
        assert_eq!(handle(req).unwrap().body().unwrap(), br#"{"message":"Hello, Ada!"}"#);
    }
}
