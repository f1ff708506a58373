//! The attribute macro of `vesta-sdk`; use it from there.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, FnArg, ItemFn, MetaNameValue, ReturnType};

/// Makes a function the one that answers requests, and the crate a `wasi:http` component.
///
/// The function takes a `Request` and returns `Result<Response, Error>`; it may be `async`. A crate has one.
///
/// ```no_run
/// use vesta_sdk::{Error, Request, Response};
///
/// #[vesta_sdk::handler]
/// async fn handle(req: Request) -> Result<Response, Error> {
///     Ok(Response::text(req.path()))
/// }
/// ```
///
/// `init = …` names a `fn()` that prepares what every request needs: a tokenizer, tables. The component
/// exports it as `wizer-initialize`. Vesta calls it once, at deploy, and each instance begins with the memory
/// that it left; on a host that does not do so it runs before an instance's first request. At deploy there is
/// nothing of the host: an `init` that reads variables or the clock, draws random numbers (as a std `HashMap`
/// does), opens a connection, loads a model or prints is refused.
///
/// ```no_run
/// use std::collections::BTreeMap;
/// use std::sync::LazyLock;
/// use vesta_sdk::{Error, Request, Response};
///
/// static SQUARES: LazyLock<BTreeMap<u64, u64>> = LazyLock::new(|| (0..10_000).map(|n| (n * n, n)).collect());
///
/// fn init() {
///     LazyLock::force(&SQUARES);
/// }
///
/// #[vesta_sdk::handler(init = init)]
/// fn root(req: Request) -> Result<Response, Error> {
///     let n = req.query("n").and_then(|n| n.parse().ok()).ok_or_else(|| Error::bad_request("n: a number is needed"))?;
///     Response::json(&SQUARES.get(&n))
/// }
/// ```
#[proc_macro_attribute]
pub fn handler(attribute: proc_macro::TokenStream, item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    expand(attribute.into(), item.into()).unwrap_or_else(|error| error.into_compile_error()).into()
}

fn expand(attribute: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let init = Init::read(attribute)?;
    let function: ItemFn = syn::parse2(item.clone()).map_err(|_| {
        Error::new(
            item.span(),
            "#[handler] goes on a function: fn handle(req: Request) -> Result<Response, Error>",
        )
    })?;
    check(&function)?;
    let name = &function.sig.ident;
    let serve = if function.sig.asyncness.is_some() { quote!(serve_async) } else { quote!(serve) };
    // At the return type, so that the compiler points there when it does not fit.
    let call = quote_spanned! { function.sig.output.span() =>
        ::vesta_sdk::__private::#serve(request, response_out, #name)
    };
    let Init { check, run, export } = init;
    Ok(quote! {
        #[cfg_attr(not(target_family = "wasm"), allow(dead_code))]
        #function

        #check

        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Component;

            #export

            impl ::vesta_sdk::__private::wasip2::exports::http::incoming_handler::Guest for Component {
                fn handle(
                    request: ::vesta_sdk::__private::wasip2::http::types::IncomingRequest,
                    response_out: ::vesta_sdk::__private::wasip2::http::types::ResponseOutparam,
                ) {
                    #run
                    #call
                }
            }

            ::vesta_sdk::__private::wasip2::http::proxy::export!(
                Component with_types_in ::vesta_sdk::__private::wasip2
            );
        };
    })
}

/// What becomes of `init = …`; nothing where there is none.
#[derive(Default)]
struct Init {
    /// On every target, so that the function counts as used, and the compiler points at what is no `fn()`.
    check: TokenStream,
    run: TokenStream,
    export: TokenStream,
}

impl Init {
    fn read(attribute: TokenStream) -> syn::Result<Init> {
        if attribute.is_empty() {
            return Ok(Init::default());
        }
        let only = "#[handler] takes one argument: init = a function without arguments and result";
        let Ok(MetaNameValue { path, value, .. }) = syn::parse2(attribute.clone()) else {
            return Err(Error::new(attribute.span(), only));
        };
        if !path.is_ident("init") {
            return Err(Error::new(path.span(), only));
        }
        let run = quote!(::vesta_sdk::__private::initialize(#value););
        let export = quote! {
            impl ::vesta_sdk::__private::Guest for Component {
                fn wizer_initialize() {
                    #run
                }
            }

            ::vesta_sdk::__private::export_init!(Component with_types_in ::vesta_sdk::__private);
        };
        Ok(Init { check: quote_spanned!(value.span()=> const _: fn() = #value;), run, export })
    }
}

fn check(function: &ItemFn) -> syn::Result<()> {
    let signature = &function.sig;
    if let Some(token) = &signature.constness {
        return Err(Error::new(token.span(), "a handler can't be const"));
    }
    if let Some(abi) = &signature.abi {
        return Err(Error::new(abi.span(), "a handler is a plain Rust function"));
    }
    if !signature.generics.params.is_empty() {
        return Err(Error::new(
            signature.generics.span(),
            "a handler can't be generic: the host calls it as it is",
        ));
    }
    let one_argument = "a handler takes one argument, the request: fn handle(req: Request)";
    let mut inputs = signature.inputs.iter();
    match (inputs.next(), inputs.next()) {
        (Some(FnArg::Typed(_)), None) => {}
        (Some(FnArg::Receiver(receiver)), _) => return Err(Error::new(receiver.span(), one_argument)),
        (Some(_), Some(second)) => return Err(Error::new(second.span(), one_argument)),
        (None, _) => return Err(Error::new(signature.ident.span(), one_argument)),
    }
    if let ReturnType::Default = signature.output {
        return Err(Error::new(signature.ident.span(), "a handler returns Result<Response, Error>"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(attribute: TokenStream, item: TokenStream) -> String {
        expand(attribute, item).unwrap_err().to_string()
    }

    #[test]
    fn misuse_is_explained() {
        let good = quote!(
            fn handle(req: Request) -> Result<Response, Error> {
                todo()
            }
        );
        assert!(expand(quote!(), good.clone()).is_ok());
        assert!(expand(quote!(init = init), good.clone()).is_ok());
        for wrong in
            [quote!(stream), quote!(init), quote!(init = ), quote!(inti = init), quote!(init = a, init = b)]
        {
            assert!(error(wrong, good.clone()).contains("one argument: init ="));
        }
        assert!(
            error(
                quote!(),
                quote!(
                    struct Handler;
                )
            )
            .contains("goes on a function")
        );
        assert!(
            error(
                quote!(),
                quote!(
                    fn handle() -> R {}
                )
            )
            .contains("one argument")
        );
        assert!(
            error(
                quote!(),
                quote!(
                    fn handle(a: A, b: B) -> R {}
                )
            )
            .contains("one argument")
        );
        assert!(
            error(
                quote!(),
                quote!(
                    fn handle(&self) -> R {}
                )
            )
            .contains("one argument")
        );
        assert!(
            error(
                quote!(),
                quote!(
                    fn handle(a: A) {}
                )
            )
            .contains("returns Result")
        );
        assert!(
            error(
                quote!(),
                quote!(
                    fn handle<T>(a: T) -> R {}
                )
            )
            .contains("generic")
        );
        assert!(
            error(
                quote!(),
                quote!(
                    const fn handle(a: A) -> R {}
                )
            )
            .contains("const")
        );
        assert!(
            error(
                quote!(),
                quote!(
                    extern "C" fn handle(a: A) -> R {}
                )
            )
            .contains("plain Rust")
        );
    }

    #[test]
    fn an_async_function_is_served_by_the_executor() {
        let expanded = expand(
            quote!(),
            quote!(
                async fn handle(req: A) -> R {}
            ),
        )
        .unwrap()
        .to_string();
        assert!(expanded.contains("serve_async"));
        assert!(!expanded.contains("initialize"));
    }
}
