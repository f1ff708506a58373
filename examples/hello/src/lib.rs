use serde::{Deserialize, Serialize};
use vesta_sdk::{Error, Method, Request, Response, log};

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
    match *req.method() {
        Method::GET => {
            let name = req.query("name").unwrap_or("world".into());
            Ok(Response::text(greeting(&name)))
        }
        Method::POST => {
            let guest: Guest = req.json()?;
            log::info!("greeting a guest", name = guest.name);
            Response::json(&Greeting { message: greeting(&guest.name) })
        }
        _ => Err(Error::method_not_allowed("hello answers GET and POST").with_field("method")),
    }
}

fn greeting(name: &str) -> String {
    format!("Hello, {name}!")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_world_is_greeted_unless_a_name_is_given() {
        let body = |target| {
            handle(Request::for_test(Method::GET, target, &[], "")).unwrap().body().unwrap().to_vec()
        };
        assert_eq!(body("/"), b"Hello, world!");
        assert_eq!(body("/?name=Ada+L"), b"Hello, Ada L!");
    }

    #[test]
    fn json_comes_back_as_json() {
        let req = Request::for_test(Method::POST, "/", &[], r#"{"name":"Ada"}"#);
        assert_eq!(handle(req).unwrap().body().unwrap(), br#"{"message":"Hello, Ada!"}"#);
        let error = handle(Request::for_test(Method::POST, "/", &[], r#"{"name":7}"#)).unwrap_err();
        assert_eq!((error.status().as_u16(), error.field()), (400, Some("name")));
    }
}
