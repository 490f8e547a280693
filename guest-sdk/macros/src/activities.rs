//! `#[activities]`: from one trait the trait itself, a proxy that calls it from
//! an orchestration, and an adapter that serves it.

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::parse::Parser;
use syn::spanned::Spanned;
use syn::{Attribute, Error, Expr, FnArg, Ident, ItemTrait, Result, TraitItem, TraitItemFn, Type};

use crate::signature::{self, Complaints, Options};

/// One method, understood.
struct Method {
    ident: Ident,
    docs: Vec<Attribute>,
    /// `service.method`.
    activity: String,
    description: String,
    context: Type,
    input: Option<(Ident, Type)>,
    /// The whole `Result`.
    output: Type,
    retry: Option<Expr>,
}

pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let definition: ItemTrait =
        syn::parse2(item).map_err(|error| Error::new(error.span(), "#[activities] goes on a trait"))?;
    let (service, retry) = service_options(arguments, &definition)?;

    let mut complaints = Complaints::default();
    if !definition.generics.params.is_empty() {
        let message = "a service of activities cannot be generic";
        complaints.add(Error::new_spanned(&definition.generics, message));
    }
    let mut methods = Vec::new();
    for item in &definition.items {
        match understand(item, &service, retry.as_ref(), &mut complaints) {
            Ok(method) => methods.push(method),
            Err(error) => complaints.add(error),
        }
    }
    for (index, method) in methods.iter().enumerate() {
        if methods[..index].iter().any(|earlier| earlier.activity == method.activity) {
            let message = format!("an activity `{}` is there already; give one of them another name", method.activity);
            complaints.add(Error::new_spanned(&method.ident, message));
        }
    }
    complaints.finish()?;

    let served = trait_itself(&definition, &methods);
    let proxy = proxy(&definition, &service, &methods);
    let adapter = adapter(&definition, &service, &methods);
    Ok(quote! { #served #proxy #adapter })
}

fn service_options(arguments: TokenStream, definition: &ItemTrait) -> Result<(String, Option<Expr>)> {
    let mut service = snake_case(&definition.ident.to_string());
    let mut retry = None;
    for option in &Options::parse_terminated.parse2(arguments)? {
        if option.path.is_ident("service") {
            service = signature::text(option)?;
        } else if option.path.is_ident("retry") {
            retry = Some(option.value.clone());
        } else {
            let known = "`service = \"...\"` or `retry = <a RetryPolicy>`";
            return Err(signature::unknown(option, known));
        }
    }
    Ok((service, retry))
}

pub(crate) fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for character in name.chars() {
        if character.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(character.to_lowercase());
    }
    snake
}

fn understand(
    item: &TraitItem,
    service: &str,
    service_retry: Option<&Expr>,
    complaints: &mut Complaints,
) -> Result<Method> {
    let TraitItem::Fn(method) = item else {
        return Err(Error::new_spanned(item, "a service of activities has only methods"));
    };
    let signature = &method.sig;
    signature::check(signature, "an activity", complaints);
    if let Some(body) = &method.default {
        complaints.add(Error::new_spanned(body, "an activity has no default body"));
    }
    let shape = "an activity takes `(&self, ctx: ActivityContext)` or \
        `(&self, ctx: ActivityContext, input: T)`";
    let mut inputs = signature.inputs.iter();
    match inputs.next() {
        Some(FnArg::Receiver(me)) if me.reference.is_some() && me.mutability.is_none() => {}
        Some(other) => return Err(Error::new_spanned(other, shape)),
        None => return Err(Error::new(signature.paren_token.span.join(), shape)),
    }
    let Some((_, context)) = inputs.next().and_then(signature::argument) else {
        return Err(Error::new(signature.paren_token.span.join(), shape));
    };
    let input = inputs.next().and_then(signature::argument);
    if let Some(extra) = inputs.next() {
        let message = format!("{shape}; put several inputs into one struct");
        return Err(Error::new_spanned(extra, message));
    }
    let (name, retry) = method_options(method)?;
    Ok(Method {
        ident: signature.ident.clone(),
        docs: method.attrs.iter().filter(|a| a.path().is_ident("doc")).cloned().collect(),
        activity: format!("{service}.{name}"),
        description: signature::doc_text(&method.attrs),
        context: context.clone(),
        input: input.map(|(ident, ty)| (ident, ty.clone())),
        output: signature::output(signature),
        retry: retry.or_else(|| service_retry.cloned()),
    })
}

fn method_options(method: &TraitItemFn) -> Result<(String, Option<Expr>)> {
    let mut name = method.sig.ident.to_string();
    let mut retry = None;
    for attribute in method.attrs.iter().filter(|a| a.path().is_ident("activity")) {
        for option in &attribute.parse_args_with(Options::parse_terminated)? {
            if option.path.is_ident("name") {
                name = signature::text(option)?;
            } else if option.path.is_ident("retry") {
                retry = Some(option.value.clone());
            } else {
                let known = "`name = \"...\"` or `retry = <a RetryPolicy>`";
                return Err(signature::unknown(option, known));
            }
        }
    }
    Ok((name, retry))
}

/// The trait, its methods saying that their futures can be sent where that is so.
fn trait_itself(definition: &ItemTrait, methods: &[Method]) -> TokenStream {
    let mut definition = definition.clone();
    let methods_of_trait = definition.items.iter_mut().filter_map(|item| match item {
        TraitItem::Fn(method) => Some(method),
        _ => None,
    });
    for (method, understood) in methods_of_trait.zip(methods) {
        method.attrs.retain(|attribute| !attribute.path().is_ident("activity"));
        method.sig.asyncness = None;
        let output = &understood.output;
        method.sig.output = syn::parse_quote! {
            -> impl ::core::future::Future<Output = #output> + ::dacapo_sdk::MaybeSend
        };
    }
    definition.into_token_stream()
}

fn proxy(definition: &ItemTrait, service: &str, methods: &[Method]) -> TokenStream {
    let visibility = &definition.vis;
    let proxy = format_ident!("{}Proxy", definition.ident);
    let documentation = format!("Calls the activities of the service `{service}`.");
    let calls = methods.iter().map(|method| {
        let Method { ident, docs, activity, output, .. } = method;
        // With the spans of the types, the compiler points at the one at fault.
        let (parameter, input) = match &method.input {
            Some((name, ty)) => (quote!(#name: #ty), quote_spanned!(ty.span()=> &#name)),
            None => (quote!(), quote!(&())),
        };
        let call = quote_spanned!(output.span()=> self.ctx.call_activity);
        quote! {
            #(#docs)*
            #visibility fn #ident(&self, #parameter) -> ::dacapo_sdk::ActivityCall<
                <#output as ::dacapo_sdk::__private::ResultParts>::Ok,
            > {
                #call(#activity, #input)
            }
        }
    });
    quote! {
        #[doc = #documentation]
        #[derive(::core::clone::Clone, ::core::fmt::Debug)]
        #[allow(dead_code)]
        #visibility struct #proxy {
            ctx: ::dacapo_sdk::Context,
        }

        #[allow(dead_code)]
        impl #proxy {
            /// Calls on behalf of this orchestration.
            #visibility fn new(ctx: &::dacapo_sdk::Context) -> Self {
                Self { ctx: ::core::clone::Clone::clone(ctx) }
            }

            #(#calls)*
        }
    }
}

fn adapter(definition: &ItemTrait, service: &str, methods: &[Method]) -> TokenStream {
    let (visibility, service_trait) = (&definition.vis, &definition.ident);
    let adapter = format_ident!("{}Activities", definition.ident);
    let documentation = format!("Serves the activities of the service `{service}`.");
    let entries = methods.iter().map(|method| entry(service_trait, method));
    quote! {
        #[doc = #documentation]
        #[derive(::core::clone::Clone, ::core::fmt::Debug)]
        #[allow(dead_code)]
        #visibility struct #adapter<T>(
            /// The implementation.
            #visibility T,
        );

        impl<T> ::dacapo_sdk::IntoActivitySet for #adapter<T>
        where
            T: #service_trait + ::dacapo_sdk::MaybeSend + ::dacapo_sdk::MaybeSync + 'static,
        {
            fn into_activity_set(self) -> ::dacapo_sdk::ActivitySet {
                #[allow(unused_imports)]
                use ::dacapo_sdk::__private::{WithSchema as _, WithoutSchema as _};
                let implementation = ::std::sync::Arc::new(self.0);
                ::dacapo_sdk::ActivitySet { activities: ::std::vec![#(#entries),*] }
            }
        }
    }
}

fn entry(service_trait: &Ident, method: &Method) -> TokenStream {
    let Method { ident, activity, description, context, output, .. } = method;
    let retry = match &method.retry {
        Some(policy) => quote!(::core::option::Option::Some(#policy)),
        None => quote!(::core::option::Option::None),
    };
    let (input_type, input_schema, call) = match &method.input {
        Some((_, ty)) => (
            ty.to_token_stream(),
            quote!((&::dacapo_sdk::__private::Probe::<#ty>::new()).schema()),
            quote!(#service_trait::#ident(&*implementation, ctx, input)),
        ),
        None => (
            quote!(::dacapo_sdk::serde::de::IgnoredAny),
            quote!(::core::option::Option::None),
            quote!({ let _ = input; #service_trait::#ident(&*implementation, ctx) }),
        ),
    };
    let handle = quote_spanned! {output.span()=>
        ::dacapo_sdk::__private::handle(#activity, input, |input: #input_type| #call).await
    };
    quote! {
        ::dacapo_sdk::Activity {
            name: ::std::string::String::from(#activity),
            description: ::std::string::String::from(#description),
            input_schema: #input_schema,
            output_schema: (&::dacapo_sdk::__private::Probe::<
                <#output as ::dacapo_sdk::__private::ResultParts>::Ok,
            >::new()).schema(),
            default_retry: #retry,
            handler: {
                let implementation = ::std::sync::Arc::clone(&implementation);
                ::std::sync::Arc::new(move |ctx: #context, input| {
                    let implementation = ::std::sync::Arc::clone(&implementation);
                    ::std::boxed::Box::pin(async move {
                        #handle
                    })
                })
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(methods: TokenStream) -> Vec<String> {
        crate::complaints(expand(TokenStream::new(), quote!(trait Hotel { #methods })))
    }

    #[test]
    fn what_a_method_may_not_be() {
        let shape = "an activity takes `(&self, ctx: ActivityContext)` or \
            `(&self, ctx: ActivityContext, input: T)`";
        assert_eq!(
            complaints(quote!(
                async fn book(&self, ctx: ActivityContext, a: u8, b: u8) -> Result<()>;
            )),
            [format!("{shape}; put several inputs into one struct")]
        );
        assert_eq!(
            complaints(quote!(
                async fn book(&self) -> Result<()>;
            )),
            [shape]
        );
        assert_eq!(
            complaints(quote!(
                async fn book(&mut self, ctx: ActivityContext) -> Result<()>;
            )),
            [shape]
        );
        assert_eq!(
            complaints(quote!(
                fn book(&self, ctx: ActivityContext);
            )),
            [
                "an activity is an async function: write `async fn book`",
                "an activity returns a `Result`, such as `dacapo_sdk::Result<()>`",
            ]
        );
        assert_eq!(
            complaints(quote!(
                const N: u8;
            )),
            ["a service of activities has only methods"]
        );
    }

    #[test]
    fn services_are_named_in_snake_case() {
        assert_eq!(snake_case("CarRental"), "car_rental");
    }
}
