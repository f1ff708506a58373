//! The attribute macro of `vesta-sdk`; use it from there.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, FnArg, ItemFn, ReturnType};

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
#[proc_macro_attribute]
pub fn handler(attribute: proc_macro::TokenStream, item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    expand(attribute.into(), item.into()).unwrap_or_else(|error| error.into_compile_error()).into()
}

fn expand(attribute: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    if !attribute.is_empty() {
        return Err(Error::new(attribute.span(), "#[handler] takes no arguments"));
    }
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
    Ok(quote! {
        #[cfg_attr(not(target_family = "wasm"), allow(dead_code))]
        #function

        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Component;

            impl ::vesta_sdk::__private::wasip2::exports::http::incoming_handler::Guest for Component {
                fn handle(
                    request: ::vesta_sdk::__private::wasip2::http::types::IncomingRequest,
                    response_out: ::vesta_sdk::__private::wasip2::http::types::ResponseOutparam,
                ) {
                    #call
                }
            }

            ::vesta_sdk::__private::wasip2::http::proxy::export!(
                Component with_types_in ::vesta_sdk::__private::wasip2
            );
        };
    })
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
        assert!(error(quote!(stream), good).contains("no arguments"));
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
    }
}
