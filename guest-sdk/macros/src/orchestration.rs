//! `#[orchestration]`: keeps the function and puts a type of its name beside it,
//! so that one path leads to both.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::parse::Parser;
use syn::spanned::Spanned;
use syn::{Error, FnArg, ItemFn, Result};

use crate::signature::{self, Complaints, Options};

pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let function: ItemFn =
        syn::parse2(item).map_err(|error| Error::new(error.span(), "#[orchestration] goes on an async function"))?;
    let Chosen { name, updates, queries } = chosen(arguments, &function)?;
    let input = check(&function)?;

    let description = signature::doc_text(&function.attrs);
    let (visibility, ident) = (&function.vis, &function.sig.ident);
    let output = signature::output(&function.sig);
    let output_span = signature::value_span(&output);
    // With the span of its type, the compiler points there when it is no `Context`.
    let ctx = match function.sig.inputs.first().and_then(signature::argument) {
        Some((_, ty)) => quote_spanned!(ty.span()=> ctx),
        None => quote!(ctx),
    };
    let (input_schema, run) = match input {
        Some(input) => {
            let span = input.span();
            let what = format!("input of orchestration {name:?}");
            // The spans let the compiler point at the type when it is not serde's.
            let decode = quote_spanned!(span=> ::dacapo_sdk::__private::decode::<#input>(#what, &input));
            (
                quote! {
                    (&::dacapo_sdk::__private::Probe::<#input>::new()).schema()
                },
                quote! { #ident(#ctx, #decode?) },
            )
        }
        None => (quote!(::core::option::Option::None), quote! { { let _ = input; #ident(#ctx) } }),
    };
    let input_type = input.map_or_else(|| quote!(()), |input| quote!(#input));
    let encode = quote_spanned!(output_span=> ::dacapo_sdk::__private::encode(output));
    let documentation = format!("The orchestration `{name}`.");

    Ok(quote! {
        #function

        #[doc = #documentation]
        #[allow(non_camel_case_types)]
        #[derive(::core::clone::Clone, ::core::marker::Copy, ::core::fmt::Debug)]
        #visibility struct #ident {}

        impl ::dacapo_sdk::Callable for #ident {
            type Input = #input_type;
            type Output = <#output as ::dacapo_sdk::__private::ResultParts>::Ok;
        }

        impl ::dacapo_sdk::Orchestration for #ident {
            const NAME: &'static str = #name;
            const DESCRIPTION: &'static str = #description;
            const UPDATES: &'static [&'static str] = &[#(#updates),*];
            const QUERIES: &'static [::dacapo_sdk::__private::ExportedQuery] =
                &[#(::dacapo_sdk::__private::ExportedQuery::of::<#queries>()),*];

            fn schemas() -> (
                ::core::option::Option<::std::string::String>,
                ::core::option::Option<::std::string::String>,
            ) {
                #[allow(unused_imports)]
                use ::dacapo_sdk::__private::{WithSchema as _, WithoutSchema as _};
                type Output = <#output as ::dacapo_sdk::__private::ResultParts>::Ok;
                (
                    #input_schema,
                    (&::dacapo_sdk::__private::Probe::<Output>::new()).schema(),
                )
            }

            fn run(
                #ctx: ::dacapo_sdk::Context,
                input: ::dacapo_sdk::Payload,
            ) -> ::dacapo_sdk::__private::LocalBoxFuture<
                'static,
                ::dacapo_sdk::Result<::dacapo_sdk::Payload>,
            > {
                ::std::boxed::Box::pin(async move {
                    let output = #run.await;
                    #encode
                })
            }
        }
    })
}

/// What the attribute says.
struct Chosen {
    name: String,
    /// Names of the updates that it says it answers.
    updates: Vec<String>,
    /// Types of the queries that it says it answers.
    queries: Vec<syn::Expr>,
}

fn chosen(arguments: TokenStream, function: &ItemFn) -> Result<Chosen> {
    let mut chosen = Chosen { name: function.sig.ident.to_string(), updates: Vec::new(), queries: Vec::new() };
    for option in &Options::parse_terminated.parse2(arguments)? {
        if option.path.is_ident("name") {
            chosen.name = signature::text(option)?;
        } else if option.path.is_ident("updates") {
            chosen.updates = signature::texts(option)?;
        } else if option.path.is_ident("queries") {
            chosen.queries = signature::list(option, "queries")?;
        } else {
            let known = "`name = \"...\"`, `updates = [\"...\"]` or `queries = [...]`";
            return Err(signature::unknown(option, known));
        }
    }
    Ok(chosen)
}

/// The type of the input, if there is one.
fn check(function: &ItemFn) -> Result<Option<&syn::Type>> {
    let sig = &function.sig;
    let mut complaints = Complaints::default();
    signature::check(sig, "an orchestration", &mut complaints);
    let shape = "an orchestration takes `(ctx: Context)` or `(ctx: Context, input: T)`";
    if let Some(FnArg::Receiver(receiver)) = sig.inputs.first() {
        complaints.add(Error::new_spanned(receiver, format!("{shape}, not `self`")));
    }
    match sig.inputs.len() {
        0 => complaints.add(Error::new(sig.paren_token.span.join(), shape)),
        1 | 2 => {}
        _ => {
            for extra in sig.inputs.iter().skip(2) {
                let message = format!("{shape}; put several inputs into one struct");
                complaints.add(Error::new_spanned(extra, message));
            }
        }
    }
    complaints.finish()?;
    Ok(sig.inputs.get(1).and_then(signature::argument).map(|(_, ty)| ty))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(item: TokenStream) -> Vec<String> {
        crate::complaints(expand(TokenStream::new(), item))
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let wrong = quote! {
            fn trip(ctx: Context, from: String, to: String) -> String { to }
        };
        assert_eq!(
            complaints(wrong),
            [
                "an orchestration is an async function: write `async fn trip`",
                "an orchestration returns a `Result`, such as `dacapo_sdk::Result<()>`",
                "an orchestration takes `(ctx: Context)` or `(ctx: Context, input: T)`; \
                 put several inputs into one struct",
            ]
        );
        assert_eq!(
            complaints(quote!(
                async fn trip() -> Result<()> {}
            )),
            ["an orchestration takes `(ctx: Context)` or `(ctx: Context, input: T)`"]
        );
        assert_eq!(
            complaints(quote!(
                struct Trip;
            )),
            ["#[orchestration] goes on an async function"]
        );
    }

    #[test]
    fn options_are_checked() {
        let function = quote!(
            async fn trip(ctx: Context) -> Result<()> {}
        );
        assert!(expand(quote!(name = "trip-v2"), function.clone()).is_ok());
        let unknown = expand(quote!(nam = "x"), function.clone()).unwrap_err();
        assert_eq!(
            unknown.to_string(),
            "unknown option; expected `name = \"...\"`, `updates = [\"...\"]` or `queries = [...]`"
        );
        let number = expand(quote!(name = 1), function).unwrap_err();
        assert_eq!(number.to_string(), "expected a name in quotes");
    }
}
